// What the recipes of DBRX need beside those of other families: solved experts that lie in one
// tensor, one of them as [inputs, outputs], and static inputs under a solver.

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/control/group_plan.h"
#include "core/plan/layer_plan.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "fmt/format.h"
#include "tests/coordinator/planner/calibrated_run.h"
#include "worker/stage/expert_rows.h"

namespace octavo {
namespace {

v1::Recipe Solving(const std::string& dialect, const std::string& input,
                   const std::string& solver) {
  const auto recipe = ParseRecipe(
      fmt::format("name: a\ndialect: {}\nrules:\n  - weight: {{type: fp8, scale: tensor}}\n"
                  "    input: {{type: fp8, scale: {}}}\n    solver: {{type: {}}}\n"
                  "calibration: {{observer: absmax, samples: 9, sample_length: 9}}\n",
                  dialect, input, solver),
      "a.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

template <typename T>
std::vector<T> Elements(const std::string& bytes, uint64_t begin, uint64_t count) {
  std::vector<T> out(count);
  EXPECT_LE(begin + count * sizeof(T), bytes.size());
  std::memcpy(out.data(), bytes.data() + begin, count * sizeof(T));
  return out;
}

// What one expert's weights give for what it read, from the files alone: source, output, kept rows.
class ExpertError {
 public:
  ExpertError(const Made& made, const std::string& source)
      : made_(made),
        source_(ReadText(source + "/model.safetensors")),
        output_(ReadText(made.job.staging_dir() + "/model.safetensors")) {}

  // Squared error of the outputs of a UNIT_SOLVE's pieces, over all rows and outputs.
  double Of(const v1::Unit& unit) const {
    const std::vector<float> rows = RowsOf(unit);
    double error = 0;
    for (const v1::Piece& piece : unit.pieces()) error += OfPiece(unit, piece, rows);
    return error;
  }

 private:
  std::vector<float> RowsOf(const v1::Unit& unit) const {
    const std::string scratch = ScratchDirOf(made_.job.staging_dir());
    const v1::HessianSpec& read = unit.hessian();
    const auto rows = ExpertRows::Read(scratch, unit.layer(), read.point(),
                                       made_.plan.calibration().batches_size());
    EXPECT_TRUE(rows.ok()) << rows.status();
    const auto channels = static_cast<uint64_t>(read.channels());
    std::vector<float> out;
    for (const KeptRows& kept : rows->Of(read.expert())) {
      const std::string file =
          ReadText(JoinPath(scratch, KeptFileName(unit.layer(), kept.batch, read.point())));
      for (const uint16_t bits : Elements<uint16_t>(file, kept.begin * channels * 2,
                                                    static_cast<uint64_t>(kept.count) * channels)) {
        out.push_back(F32FromBf16(bits));
      }
    }
    return out;
  }

  double OfPiece(const v1::Unit& unit, const v1::Piece& piece,
                 const std::vector<float>& rows) const {
    const auto columns = static_cast<uint64_t>(piece.source().shape(1));
    const auto first = static_cast<uint64_t>(piece.row_begin());
    const auto count = static_cast<uint64_t>(piece.row_end()) - first;
    const auto weights =
        Elements<uint16_t>(source_, piece.source().begin() + first * columns * 2, count * columns);
    const auto codes = Elements<uint8_t>(output_, piece.weight_out().begin(), count * columns);
    const float scale = Elements<float>(output_, piece.scale_out().begin(), 1)[0];
    const auto channels = static_cast<uint64_t>(unit.hessian().channels());
    const uint64_t outputs = count * columns / channels;
    const bool by_inputs = piece.source().name().ends_with("w2");
    std::vector<float> off(outputs * channels);  // [outputs][channels]
    for (uint64_t row = 0; row < count; ++row) {
      for (uint64_t column = 0; column < columns; ++column) {
        const uint64_t at = by_inputs ? column * channels + row : row * channels + column;
        off[at] = F32FromFp8(codes[row * columns + column]) * scale -
                  F32FromBf16(weights[row * columns + column]);
      }
    }
    double error = 0;
    for (uint64_t token = 0; token < rows.size() / channels; ++token) {
      for (uint64_t output = 0; output < outputs; ++output) {
        double sum = 0;
        for (uint64_t i = 0; i < channels; ++i) {
          sum += static_cast<double>(rows[token * channels + i]) * off[output * channels + i];
        }
        error += sum * sum;
      }
    }
    return error;
  }

  const Made& made_;
  const std::string source_;
  const std::string output_;
};

TEST(StackedRun, ExpertsAreSolvedByTheirOwnInputs) {
  const TestFolder folder;
  const std::string source = folder / "src";
  ASSERT_TRUE(WriteSynthetic(Spec("dbrx"), 7, source).ok());
  for (const char* solver : {"gptq", "sparsegpt"}) {
    const auto prepare = [&](const std::string& run) {
      return Prepare(source, folder / (solver + ("-" + run)), Solving("fp8", "token", solver),
                     RandomSamples(60, 3));
    };
    Made first;
    if (std::string_view(solver) == "gptq") {
      FinishedAlike(prepare, &first);
    } else {
      first = prepare("a");
      Stages stages(BestIsa());
      Finished(&first, &stages, 1, 2);
    }
    const ExpertError error(first, source);
    std::map<std::pair<int32_t, bool>, int> solved;  // by (expert, turned)
    double before = 0;
    double after = 0;
    for (const v1::Unit& unit : first.plan.units()) {
      const v1::SolveFigures& figures = first.receipts[unit.id()].solved();
      if (unit.kind() != v1::UNIT_SOLVE || unit.hessian().expert() < 0) continue;
      const bool turned = unit.hessian().point() == v1::OBSERVED_MLP_INNER;
      EXPECT_EQ(unit.pieces(0).transposed(), turned);
      EXPECT_EQ(unit.hessian().channels(), turned ? 176 : 96);
      EXPECT_EQ(figures.rows(), turned ? 96u : 2 * 176u);
      ASSERT_EQ(figures.shrinkage(), 0);
      before += figures.error_before();
      after += figures.error_after();
      ++solved[{unit.hessian().expert(), turned}];
      if (unit.layer() != 2) continue;  // of others nothing is left to compare with
      EXPECT_NEAR(error.Of(unit) / figures.error_after(), 1, 1e-3) << solver;
    }
    EXPECT_EQ(solved.size(), 8u);
    for (const auto& [what, units] : solved) EXPECT_EQ(units, 3);
    EXPECT_LT(after, 0.9 * before) << solver;
  }
}

// Where and how a tensor lies; its name aside, which folders give to experts taken from a stack.
std::string Place(v1::RankTensor tensor) {
  for (v1::TensorSpec* spec : {tensor.mutable_tensor()->mutable_spec(), tensor.mutable_scale(),
                               tensor.mutable_input_scale()}) {
    spec->clear_name();
  }
  return tensor.DebugString();
}

// By layers, and with what is static: what a layer above sees is read from where readers of the
// finished folder find it.
TEST(StackedRun, LayersAreReadAsTheFinishedFolderIs) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("dbrx"), 7, folder / "dbrx").ok());
  ASSERT_TRUE(WriteSynthetic(Spec("mixtral"), 7, folder / "mixtral").ok());
  ASSERT_TRUE(WriteSynthetic(Spec("qwen2"), 7, folder / "qwen2").ok());
  for (const auto& [family, dialect] :
       std::vector<std::pair<std::string, std::string>>{{"dbrx", "quark"},
                                                        {"dbrx", "fp8"},
                                                        {"mixtral", "compressed-tensors"},
                                                        {"mixtral", "quark"},
                                                        {"qwen2", "compressed-tensors"},
                                                        {"qwen2", "fp8"}}) {
    SCOPED_TRACE(family + " in " + dialect);
    Made first = Prepare(folder / family, folder / (family + "-" + dialect),
                         Solving(dialect, "tensor", "gptq"), RandomSamples(30, 3));
    Stages stages(BestIsa());
    Finished(&first, &stages, 1, 2);
    const auto& lengths = first.plan.calibration().sample_lengths();
    ServeOptions options;
    options.max_model_len = *std::max_element(lengths.begin(), lengths.end());
    const auto read = PlanGroup(first.job.staging_dir(), options);
    ASSERT_TRUE(read.ok()) << read.status();
    int static_inputs = 0;
    for (int32_t layer = 0; layer < 3; ++layer) {
      const v1::RankPlan want = LayerPlan(read->plan, layer).ranks(0);
      const v1::RankPlan& used = first.plan.calibration().solved_layers(layer).ranks(0);
      ASSERT_EQ(used.tensors_size(), want.tensors_size());
      for (int i = 0; i < want.tensors_size(); ++i) {
        EXPECT_EQ(Place(used.tensors(i)), Place(want.tensors(i))) << want.tensors(i).DebugString();
        static_inputs += want.tensors(i).has_input_scale();
      }
    }
    EXPECT_EQ(static_inputs, 3 * (family == "qwen2" ? 7 : 4 + 3 * 4));
    // A layer's scales are there before the layer above is asked for anything.
    for (const v1::Unit& unit : first.plan.units()) {
      if (unit.kind() != v1::UNIT_SCALES) continue;
      EXPECT_EQ(unit.phase(), 3 * unit.layer() + 2);
    }
  }
}

}  // namespace
}  // namespace octavo
