// One layer over samples: with its matrices in memory and read as they are needed, and with more
// tokens for experts than the router sends them.

#include "worker/runner/layer_runner.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/plan/layer_plan.h"
#include "core/tensor/bare/float_bits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/runner/tiny_model.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;
using namespace octavo::testing;  // NOLINT

using Point = std::pair<int32_t, int>;  // (expert, point)

struct Seen {
  std::vector<uint16_t> values;
  int64_t rows = 0;
  int64_t routed = 0;

  bool operator==(const Seen&) const = default;
};

struct Passed {
  std::vector<uint16_t> x;
  std::map<Point, Seen> seen;

  bool operator==(const Passed&) const = default;
};

const std::vector<uint32_t> kLengths = {7, 40, 1, 33};

std::vector<uint16_t> RandomRows(int64_t hidden) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  const auto rows = std::accumulate(kLengths.begin(), kLengths.end(), uint32_t{0});
  std::vector<uint16_t> x(static_cast<size_t>(rows * hidden));
  for (uint16_t& value : x) value = Bf16FromF32(normal(random));
  return x;
}

class LayerRunnerTest : public ::testing::TestWithParam<v1::ModelSpec> {
 protected:
  LayerRunnerTest() : model_(WriteTinyModel(GetParam(), Format::kBf16, 5)) {
    const auto whole = PlanServing(model_.spec, model_.tensors, {.max_model_len = 64});
    EXPECT_TRUE(whole.ok()) << whole.status();
    plan_ = LayerPlan(*whole, 1);
  }

  absl::StatusOr<Passed> Pass(const LayerRunner::Options& options, int64_t quota = 0,
                              const std::stop_token& stop = {}) const {
    const auto layer = LayerRunner::Load(model_.dir, plan_, options);
    if (!layer.ok()) return layer.status();
    Passed out;
    out.x = RandomRows(model_.spec.hidden_size());
    const auto look = [&](const Observed& now) {
      Seen& seen = out.seen[{now.expert, static_cast<int>(now.point)}];
      seen.values.insert(seen.values.end(), now.x, now.x + now.rows * now.columns);
      seen.rows += now.rows;
      seen.routed += now.routed;
      return absl::OkStatus();
    };
    const absl::Status status = (*layer)->Run({kLengths, quota}, out.x.data(), look, stop);
    if (!status.ok()) return status;
    return out;
  }

  TinyModel model_;
  v1::ServePlan plan_;
};

TEST_P(LayerRunnerTest, StreamedMatricesGiveTheSameBits) {
  const auto resident = Pass({.isa = BestIsa()}, 3);
  ASSERT_TRUE(resident.ok()) << resident.status();
  EXPECT_NE(resident->x, RandomRows(model_.spec.hidden_size()));
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{9} << 10, kWeightStreamBytes}) {
    for (const int threads : {1, 3}) {
      const auto streamed = Pass({.residency = Residency::kStreamed,
                                  .stream_bytes = bytes,
                                  .threads = threads,
                                  .isa = BestIsa()},
                                 3);
      ASSERT_TRUE(streamed.ok()) << streamed.status();
      EXPECT_EQ(*streamed, *resident) << bytes << " bytes, " << threads << " threads";
    }
  }
}

TEST_P(LayerRunnerTest, StreamsStopAndNameWhatTheyCannotRead) {
  LayerRunner::Options options = {.residency = Residency::kStreamed, .isa = BestIsa()};
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ReasonOf(Pass(options, 0, stop.get_token()).status()), Reason::kCancelled);
  // The file is cut short after the layer was opened.
  const auto layer = LayerRunner::Load(model_.dir, plan_, options);
  ASSERT_TRUE(layer.ok()) << layer.status();
  const auto file = std::filesystem::path(model_.dir) / "model.safetensors";
  std::filesystem::resize_file(file, 64);
  std::vector<uint16_t> x = RandomRows(model_.spec.hidden_size());
  const auto look = [](const Observed&) { return absl::OkStatus(); };
  const absl::Status status = (*layer)->Run({kLengths}, x.data(), look, {});
  EXPECT_EQ(ReasonOf(status), Reason::kBadCheckpoint);
  EXPECT_THAT(std::string(status.message()), HasSubstr(".1."));
}

TEST_P(LayerRunnerTest, MoreObservedTokensLeaveTheModelAsItIs) {
  const auto natural = Pass({.isa = BestIsa()});
  const auto covered = Pass({.isa = BestIsa()}, 4);
  const auto all = Pass({.isa = BestIsa()}, 1 << 20);
  ASSERT_TRUE(natural.ok() && covered.ok() && all.ok());
  EXPECT_EQ(covered->x, natural->x);
  EXPECT_EQ(all->x, natural->x);
  const auto rows = std::accumulate(kLengths.begin(), kLengths.end(), int64_t{0});
  for (const auto& [point, seen] : natural->seen) {
    EXPECT_EQ(seen.routed, seen.rows);
    EXPECT_EQ(covered->seen.at(point).routed, seen.routed);
    EXPECT_EQ(all->seen.at(point).routed, seen.routed);
    EXPECT_EQ(all->seen.at(point).rows, rows);
    if (point.first < 0) {
      EXPECT_EQ(covered->seen.at(point), seen);
    } else {
      EXPECT_GE(covered->seen.at(point).rows, 4 + 4 + 1 + 4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, LayerRunnerTest,
                         ::testing::Values(RaggedSpec(), MixtureSpec(), DbrxSpec()),
                         [](const auto& family) { return family.param.family(); });

}  // namespace
}  // namespace octavo
