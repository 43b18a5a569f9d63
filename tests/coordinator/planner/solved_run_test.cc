// A job with a solver in one process: three phases a layer, Hessians, codes.

#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "coordinator/planner/solve_plan.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/units.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/planner/calibrated_run.h"

namespace octavo {
namespace {

class Solved : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    source_ = folder_ / "src";
    ASSERT_TRUE(WriteSynthetic(Spec(GetParam()), 7, source_).ok());
  }
  Made Job(const std::string& name, const v1::Recipe& recipe, int samples = 12) {
    return Prepare(source_, folder_ / name, recipe, RandomSamples(samples, 3));
  }
  bool has_experts() const { return std::string(GetParam()) == "mixtral"; }

  const TestFolder folder_;
  std::string source_;
};

TEST_P(Solved, PlanHasThreePhasesALayer) {
  for (const bool from_source : {false, true}) {
    v1::Recipe recipe = *Preset("int8-w8a8-gptq");
    recipe.mutable_calibration()->set_propagates_source(from_source);
    const v1::Plan plan = Job(from_source ? "a" : "b", recipe).plan;
    const auto batches = static_cast<uint32_t>(plan.calibration().batches_size());
    const uint64_t tokens = plan.calibration().batches(batches - 1).token_end();
    std::map<std::pair<uint32_t, v1::UnitKind>, uint32_t> count;  // by phase and kind
    std::map<std::pair<uint32_t, v1::ObservedPoint>, uint64_t> summed;
    std::multiset<std::string> solved;
    int means = 0;
    for (const v1::Unit& unit : plan.units()) {
      ++count[{unit.phase(), unit.kind()}];
      const v1::HessianSpec& hessian = unit.hessian();
      if (unit.kind() == v1::UNIT_HESSIAN && hessian.mean_rows() > 0) {
        ++means;
        EXPECT_EQ(unit.phase(), 3 * unit.layer() + 1);
        EXPECT_EQ(hessian.mean_rows(), static_cast<uint64_t>(4 * hessian.channels()));
      } else if (unit.kind() == v1::UNIT_HESSIAN) {
        uint64_t& at = summed[{unit.layer(), hessian.point()}];
        EXPECT_EQ(hessian.token_begin(), at);  // leaves in order, without a gap
        at = hessian.token_end();
      }
      if (unit.kind() != v1::UNIT_SOLVE) continue;
      EXPECT_EQ(unit.phase(), 3 * unit.layer() + 2);
      for (const v1::Piece& piece : unit.pieces()) {
        EXPECT_EQ(piece.source().shape(1), hessian.channels());
        EXPECT_EQ(piece.row_end(), piece.source().shape(0));
        solved.insert(piece.source().name());
      }
    }
    for (const auto& [where, end] : summed) EXPECT_EQ(end, tokens);
    EXPECT_EQ(summed.size(), 3u * (has_experts() ? 2 : 4));
    EXPECT_EQ(means, has_experts() ? 3 * 2 : 0);
    EXPECT_EQ(solved.size(), 3u * (has_experts() ? 4 + 4 * 3 : 7));
    EXPECT_EQ(std::set<std::string>(solved.begin(), solved.end()).size(), solved.size());
    for (uint32_t layer = 0; layer < 3; ++layer) {
      EXPECT_EQ((count[{3 * layer, v1::UNIT_CALIBRATE}]), batches);
      EXPECT_EQ((count[{3 * layer, v1::UNIT_PROPAGATE}]), from_source || layer == 0 ? 0 : batches);
      EXPECT_EQ((count[{3 * layer + 2, v1::UNIT_SOLVE}]), has_experts() ? 2u + 2 * 4 : 4u);
    }
    EXPECT_EQ(plan.calibration().solved_layers_size(), from_source ? 0 : 3);
    EXPECT_GT(SolveSpillBytes(plan), tokens * 96 * 2 * 3);
    EXPECT_GT(SolveMemoryBytes(plan), 176u * 176 * 12);
  }
}

TEST_P(Solved, BytesDependNeitherOnOrderNorOnKernelsNorOnMemory) {
  for (const char* preset : {"int8-w8a8-gptq", "sparsegpt-24-fp8"}) {
    Made first;
    FinishedAlike(
        [&](const std::string& run) { return Job(preset + ("-" + run), *Preset(preset)); }, &first);
    double before = 0;
    double after = 0;
    for (const v1::Receipt& receipt : first.receipts) {
      before += receipt.solved().error_before();
      after += receipt.solved().error_after();
    }
    EXPECT_GT(after, 0);
    EXPECT_LT(after, 0.9 * before);
    // Only the last layer's Hessians and what they were made of are left.
    for (const auto& [file, content] : Contents(ScratchDirOf(first.job.staging_dir()))) {
      EXPECT_FALSE(file.starts_with("hessian-0-") || file.starts_with("kept-1-")) << file;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Solved, ::testing::Values("llama", "qwen2", "mixtral"),
                         [](const auto& given) { return std::string(given.param); });

// One token, of which a router sends two experts each their share: no Hessian to speak of.
TEST(SolvedExperts, TooFewTokensAreRoundedToNearestAndSaidSo) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("mixtral"), 7, folder / "src").ok());
  v1::Recipe recipe = *Preset("int8-w8a8-gptq");
  recipe.mutable_calibration()->set_expert_quota(0);
  Made solved = Prepare(folder / "src", folder / "a", recipe, RandomSamples(1, 3));
  Made rounded = Prepare(folder / "src", folder / "b", *Preset("int8-dynamic"), {});
  Stages stages(BestIsa());
  Finished(&solved, &stages, 1);
  Finished(&rounded, &stages, 2);
  const auto weights = [](const Made& made) {
    return ReadText(std::filesystem::path(made.job.staging_dir()) / "model.safetensors");
  };
  const std::string ours = weights(solved);
  const std::string nearest = weights(rounded);
  int checked = 0;
  for (size_t unit = 0; unit < solved.receipts.size(); ++unit) {
    const v1::SolveFigures& figures = solved.receipts[unit].solved();
    if (!solved.receipts[unit].has_solved() || figures.expert() < 0) continue;
    const int64_t channels = solved.plan.units(static_cast<int>(unit)).hessian().channels();
    const bool few = figures.tokens() < static_cast<uint64_t>(channels) / 4;
    EXPECT_EQ(few, figures.dampings().empty());
    if (!few) continue;
    ++checked;
    EXPECT_EQ(figures.nearest_rows(), figures.rows());
    for (const v1::RangeDigest& range : solved.receipts[unit].ranges()) {
      const size_t begin = range.range().begin();
      const size_t size = range.range().end() - begin;
      EXPECT_EQ(ours.substr(begin, size), nearest.substr(begin, size));
    }
  }
  EXPECT_GT(checked, 0);
}

// A router that sends half of all tokens to each of experts 0 to 3, by the signs of two directions,
// and what is left over to 4 and 5, so that some experts see much, some little and some too little.
void SkewRouters(const std::string& source) {
  const std::string path = source + "/model.safetensors";
  std::string file = ReadText(path);
  uint64_t header_size = 0;
  std::memcpy(&header_size, file.data(), 8);
  const auto header = nlohmann::json::parse(file.substr(8, header_size));
  int routers = 0;
  for (const auto& [name, entry] : header.items()) {
    if (!name.ends_with("block_sparse_moe.gate.weight")) continue;
    ++routers;
    const size_t row_bytes = entry["shape"][1].get<size_t>() * 2;
    char* rows = file.data() + 8 + header_size + entry["data_offsets"][0].get<size_t>();
    for (const int pair : {0, 2}) {  // row pair + 1 becomes minus row pair
      std::memcpy(rows + (pair + 1) * row_bytes, rows + pair * row_bytes, row_bytes);
      for (size_t at = 1; at < row_bytes; at += 2) rows[(pair + 1) * row_bytes + at] ^= '\x80';
    }
    const auto shrink = [&](int row, float factor) {
      for (size_t at = 0; at < row_bytes; at += 2) {
        uint16_t bits = 0;
        std::memcpy(&bits, rows + row * row_bytes + at, 2);
        bits = Bf16FromF32(F32FromBf16(bits) * factor);
        std::memcpy(rows + row * row_bytes + at, &bits, 2);
      }
    };
    shrink(4, 0.25f);
    shrink(5, 0.01f);
  }
  EXPECT_EQ(routers, 3);
  std::ofstream(path, std::ios::binary) << file;
}

TEST(SolvedExperts, HessiansOfFewTokensAreShrunkTheSameWayEverywhere) {
  const TestFolder folder;
  const std::string source = folder / "src";
  SynthSpec spec = Spec("mixtral");
  spec.model.set_expert_count(6);
  ASSERT_TRUE(WriteSynthetic(spec, 7, source).ok());
  SkewRouters(source);
  v1::Recipe recipe = *Preset("int8-w8a8-gptq");
  recipe.mutable_calibration()->set_expert_quota(0);
  Made first = Prepare(source, folder / "a", recipe, RandomSamples(60, 3));
  Made second = Prepare(source, folder / "b", recipe, RandomSamples(60, 3));
  Made third = Prepare(source, folder / "c", recipe, RandomSamples(60, 3));
  Stages wide(BestIsa());
  Stages plain(Isa::kReference);
  Stages tight(BestIsa(), 9u << 20);
  const auto bytes = Finished(&first, &wide, 1);
  EXPECT_EQ(bytes, Finished(&second, &plain, 2));
  EXPECT_EQ(bytes, Finished(&third, &tight, 3, 3));
  std::map<std::string, int> ranges;
  std::map<std::pair<uint32_t, v1::ObservedPoint>, std::set<uint64_t>> mean_tokens;
  for (size_t unit = 0; unit < first.receipts.size(); ++unit) {
    const v1::SolveFigures& figures = first.receipts[unit].solved();
    const v1::Unit& planned = first.plan.units(static_cast<int>(unit));
    EXPECT_EQ(figures.SerializeAsString(), second.receipts[unit].solved().SerializeAsString());
    EXPECT_EQ(figures.SerializeAsString(), third.receipts[unit].solved().SerializeAsString());
    if (!first.receipts[unit].has_solved() || figures.expert() < 0) continue;
    const auto channels = static_cast<uint64_t>(planned.hessian().channels());
    if (figures.tokens() >= 4 * channels) {
      ++ranges["own"];
      EXPECT_EQ(figures.shrinkage(), 0);
      EXPECT_LT(figures.error_after(), figures.error_before());
    } else if (figures.tokens() >= channels / 4) {
      ++ranges["shrunk"];
      const double lambda =
          static_cast<double>(figures.tokens()) / (4 * static_cast<double>(channels));
      EXPECT_DOUBLE_EQ(figures.shrinkage(), 1 - lambda);
      EXPECT_LT(figures.error_after(), figures.error_before());
      mean_tokens[{figures.layer(), figures.point()}].insert(figures.mean_tokens());
      EXPECT_LE(figures.mean_tokens(), 4 * channels);
      EXPECT_GT(figures.mean_tokens(), 2 * channels);
    } else {
      ++ranges["rounded"];
      EXPECT_EQ(figures.nearest_rows(), figures.rows());
    }
  }
  for (const char* range : {"own", "shrunk", "rounded"}) EXPECT_GT(ranges[range], 0) << range;
  for (const auto& [where, tokens] : mean_tokens) EXPECT_EQ(tokens.size(), 1u);
}

}  // namespace
}  // namespace octavo
