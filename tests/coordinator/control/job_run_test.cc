#include "coordinator/control/job_run.h"

#include <string>
#include <utility>

#include "core/metrics/metrics.h"
#include "fmt/format.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr uint32_t kUnits = 20'000;

// A plan as a 320 GB model would have: 16 MiB units, names of usual length.
v1::Plan LargePlan() {
  v1::Plan plan;
  for (uint32_t id = 0; id < kUnits; ++id) {
    v1::Unit& unit = *plan.add_units();
    unit.set_id(id);
    unit.set_kind(v1::UNIT_CAST);
    unit.set_source_bytes(16u << 20);
    unit.set_output_bytes(8u << 20);
    v1::Piece& piece = *unit.add_pieces();
    piece.mutable_source()->set_name(
        fmt::format("model.layers.{}.block_sparse_moe.experts.7.w1.weight", id / 300));
    piece.mutable_source()->set_file(fmt::format("model-{:05}-of-00064.safetensors", id / 312));
    piece.mutable_source()->add_shape(16384);
    piece.mutable_source()->add_shape(6144);
    piece.mutable_weight_out()->set_begin(uint64_t{id} << 23);
    piece.mutable_weight_out()->set_end(uint64_t{id + 1} << 23);
    piece.mutable_scale_out()->set_end(4096);
    piece.mutable_format()->set_type(v1::NUMERIC_FP8_E4M3);
  }
  return plan;
}

v1::Receipt ReceiptOf(const v1::Task& task) {
  v1::Receipt receipt;
  receipt.set_job_id(task.job_id());
  receipt.set_unit_id(task.unit().id());
  receipt.set_epoch(task.epoch());
  for (const v1::Piece& piece : task.unit().pieces()) {
    for (const v1::FileRange* range : {&piece.weight_out(), &piece.scale_out()}) {
      v1::RangeDigest& digest = *receipt.add_ranges();
      *digest.mutable_range() = *range;
      digest.mutable_digest()->set_low(range->begin());
    }
    receipt.add_reports()->set_tensor(piece.source().name());
  }
  return receipt;
}

// The coordinator's budget is 256 MiB; gRPC, SQLite and code take about 30 of them.
TEST(JobRun, TwentyThousandUnitsFitTheCoordinatorsMemory) {
  v1::Job job;
  job.set_id("0123456789abcdef");
  JobRun run(job, LargePlan(), {});
  uint64_t epoch = 0;
  while (!run.all_done()) {
    const auto task = run.Lease("worker", ++epoch);
    ASSERT_TRUE(task.has_value());
    ASSERT_EQ(run.OnReceipt("worker", ReceiptOf(*task), std::chrono::milliseconds(epoch)),
              JobRun::Answer::kDone);
  }
  EXPECT_EQ(run.Progress().units_done(), kUnits);
  EXPECT_GT(run.Rate(std::chrono::milliseconds(epoch)), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which hold more
  EXPECT_LT(ReadMemoryUse().peak, 160u << 20);
#endif
}

TEST(JobRun, SameResultLooksAtBytesAndStatisticsOnly) {
  v1::Receipt a;
  a.add_ranges()->mutable_digest()->set_low(1);
  a.add_stats()->set_amax_bits(5);
  v1::Receipt b = a;
  b.set_epoch(9);
  b.set_read_seconds(3);
  EXPECT_TRUE(SameResult(a, b));
  b.mutable_ranges(0)->mutable_digest()->set_high(1);
  EXPECT_FALSE(SameResult(a, b));
  b = a;
  b.mutable_stats(0)->set_amax_bits(6);
  EXPECT_FALSE(SameResult(a, b));
  b = a;
  b.add_ranges();
  EXPECT_FALSE(SameResult(a, b));
}

}  // namespace
}  // namespace octavo
