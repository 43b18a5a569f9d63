// A smoothed job in one process: exponents as the formula has them, the same function as before,
// the same bytes whoever does it.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "gmock/gmock.h"
#include "tests/coordinator/planner/calibrated_run.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

class Smoothed : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    source_ = folder_ / "src";
    ASSERT_TRUE(WriteSynthetic(Spec(GetParam()), 7, source_).ok());
  }
  Made Job(const std::string& name, const v1::Recipe& recipe) {
    return Prepare(source_, folder_ / name, recipe, RandomSamples(12, 3));
  }
  // A source tensor, all its elements in order.
  std::vector<float> Source(const v1::TensorSpec& spec) const {
    return Floats(source_, spec.file(), spec.begin(), spec.end());
  }
  static std::vector<float> Floats(const std::string& dir, const std::string& file, uint64_t begin,
                                   uint64_t end) {
    const std::string bytes =
        ReadText(std::filesystem::path(dir) / file).substr(begin, end - begin);
    std::vector<float> values(bytes.size() / 2);
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits;
      std::memcpy(&bits, bytes.data() + 2 * i, 2);
      values[i] = F32FromBf16(bits);
    }
    return values;
  }
  static std::string Scratch(const Made& made, const std::string& name) {
    return ReadText(std::filesystem::path(ScratchDirOf(made.job.staging_dir())) / name);
  }
  // Of every channel, from what the layer's micro-batches showed; as large as the observers saw.
  static std::vector<float> InputAmax(const Made& made, const v1::Unit& unit) {
    std::vector<float> amax(96);
    for (int batch = 0; batch < made.plan.calibration().batches_size(); ++batch) {
      v1::LayerStats stats;
      EXPECT_TRUE(stats.ParseFromString(
          Scratch(made, StatsFileName(unit.layer(), static_cast<uint32_t>(batch)))));
      float of_observers = 0;
      for (const v1::PointStat& stat : stats.points()) {
        if (stat.point() != unit.smooth().point()) continue;
        of_observers = std::max(of_observers, FloatFromBits(stat.amax_bits()));
      }
      float of_channels = 0;
      for (const v1::ChannelMaxima& maxima : stats.channels()) {
        if (maxima.point() != unit.smooth().point()) continue;
        EXPECT_EQ(maxima.amax().size(), amax.size() * 2);
        for (size_t i = 0; i < amax.size(); ++i) {
          uint16_t bits;
          std::memcpy(&bits, maxima.amax().data() + 2 * i, 2);
          amax[i] = std::max(amax[i], F32FromBf16(bits));
          of_channels = std::max(of_channels, F32FromBf16(bits));
        }
      }
      EXPECT_EQ(of_channels, of_observers);
      EXPECT_GT(of_observers, 0);
    }
    return amax;
  }
  static std::string Output(const Made& made, const v1::FileRange& range) {
    return ReadText(std::filesystem::path(made.job.staging_dir()) /
                    made.plan.outputs(static_cast<int>(range.file())).name())
        .substr(range.begin(), range.end() - range.begin());
  }

  const TestFolder folder_;
  std::string source_;
};

TEST_P(Smoothed, BytesDependNeitherOnOrderNorOnKernelsNorOnMemory) {
  for (const char* preset : {"int8-smoothquant", "int8-smoothquant-gptq"}) {
    Made first;
    const auto bytes = FinishedAlike(
        [&](const std::string& run) { return Job(preset + ("-" + run), *Preset(preset)); }, &first);
    EXPECT_THAT(bytes.at("octavo_report.json"), HasSubstr("\"smoothed\""));
  }
}

// Norms and what is kept are the source's numbers times powers of two, those of one point the same,
// and each is what the maxima of inputs and weights make it.
TEST_P(Smoothed, FactorsAreThoseOfTheFormulaAndFoldExactly) {
  Stages stages(BestIsa());
  const v1::Recipe recipe = *Preset("int8-smoothquant");
  Made made = Job("out", recipe);
  Finished(&made, &stages, 1);
  int points = 0;
  int kept = 0;
  int changed = 0;
  for (const v1::Unit& unit : made.plan.units()) {
    if (unit.kind() != v1::UNIT_SMOOTH) continue;
    ++points;
    const v1::SmoothSpec& spec = unit.smooth();
    const std::string exponents = Scratch(made, FoldFileName(unit.layer(), spec.point()));
    ASSERT_EQ(exponents.size(), 96u);
    std::vector<float> weight_amax(96);
    for (const v1::Piece& piece : unit.pieces()) {
      const std::vector<float> before = Source(piece.source());
      if (piece.has_format()) {
        for (size_t i = 0; i < before.size(); ++i) {
          weight_amax[i % 96] = std::max(weight_amax[i % 96], std::abs(before[i]));
        }
        continue;
      }
      const v1::FileRange& out = piece.weight_out();
      const std::vector<float> after =
          Floats(made.job.staging_dir(), made.plan.outputs(static_cast<int>(out.file())).name(),
                 out.begin(), out.end());
      ASSERT_EQ(after.size(), before.size());
      const bool is_norm = piece.source().shape_size() == 1;
      kept += !is_norm;
      for (size_t i = 0; i < before.size(); ++i) {
        const int k = static_cast<int8_t>(exponents[i % 96]);
        ASSERT_EQ(after[i], std::ldexp(before[i], is_norm ? -k : k)) << piece.source().name();
      }
    }
    const std::vector<float> input_amax = InputAmax(made, unit);
    const double strength = recipe.smooth().strength();
    for (size_t i = 0; i < 96; ++i) {
      const double k = strength * std::log2(static_cast<double>(input_amax[i])) -
                       (1 - strength) * std::log2(static_cast<double>(weight_amax[i]));
      EXPECT_NEAR(static_cast<int8_t>(exponents[i]), k, 0.5 + 1e-5);
      changed += exponents[i] != 0;
    }
  }
  EXPECT_EQ(points, 3 * 2);
  EXPECT_EQ(kept, std::string(GetParam()) == "mixtral" ? 3 : 0);  // routers
  EXPECT_GT(changed, 96);
}

// Codes are the folded weights', within half a step of their row's scale.
TEST_P(Smoothed, CodesAreOfFoldedWeights) {
  Stages stages(BestIsa());
  Made made = Job("out", *Preset("int8-smoothquant"));
  Finished(&made, &stages, 1);
  size_t folded = 0;
  for (const v1::Unit& unit : made.plan.units()) {
    if (unit.kind() != v1::UNIT_CAST) continue;
    for (const v1::Piece& piece : unit.pieces()) {
      if (!piece.has_fold()) continue;
      ++folded;
      const std::string exponents =
          Scratch(made, FoldFileName(piece.fold().layer(), piece.fold().point()));
      const std::vector<float> source = Source(piece.source());
      const std::string codes = Output(made, piece.weight_out());
      const std::string scales = Output(made, piece.scale_out());
      ASSERT_EQ(codes.size(), source.size());
      for (size_t i = 0; i < codes.size(); ++i) {
        float scale = 0;
        const size_t scale_size = scales.size() / (codes.size() / 96);
        std::memcpy(reinterpret_cast<char*>(&scale) + 4 - scale_size,
                    scales.data() + i / 96 * scale_size, scale_size);
        const float want = std::ldexp(source[i], static_cast<int8_t>(exponents[i % 96])) / scale;
        ASSERT_NEAR(static_cast<int8_t>(codes[i]), want, 0.5 + 1e-3) << piece.source().name();
      }
    }
  }
  EXPECT_EQ(folded, 3u * (std::string(GetParam()) == "mixtral" ? 3 + 4 * 2 : 5));
}

INSTANTIATE_TEST_SUITE_P(Families, Smoothed, ::testing::Values("llama", "qwen2", "mixtral"),
                         [](const auto& given) { return std::string(given.param); });

TEST(SmoothedPlan, IsRefusedWhereThereIsNothingToFoldInto) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("llama"), 7, folder / "src").ok());
  const auto recipe = ParseRecipe(R"(name: a
rules:
  - roles: [o_proj, down_proj]
    weight: {type: int8, scale: channel}
    input: {type: int8, scale: token}
smooth: {strength: 0.5}
calibration: {samples: 2, sample_length: 8}
)",
                                  "r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto checkpoint = OpenCheckpoint(folder / "src");
  ASSERT_TRUE(checkpoint.ok());
  const auto plan = BuildPlan(*checkpoint, *recipe, RandomSamples(2, 3));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("nothing to fold factors into"));
}

}  // namespace
}  // namespace octavo
