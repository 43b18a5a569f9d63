#include "worker/device/probe.h"

#include <cmath>
#include <filesystem>
#include <string>

#include "core/base/error.h"
#include "gtest/gtest.h"
#include "kernels/probe.h"

namespace octavo {
namespace {

TEST(Probe, MeasuresEveryRateAndLeavesNothingBehind) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "octavo-probe-test";
  std::filesystem::create_directories(dir);
  ProbeOptions options;
  options.dir = dir.string();
  options.seconds = 0.4;
  options.file_bytes = 64 << 20;
  options.threads = 2;
  const absl::StatusOr<ProbeResult> result = RunProbe(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->threads, 2);
  EXPECT_EQ(result->isa, BestIsa());
  EXPECT_EQ(result->disk_bytes, 64u << 20);
  for (const double rate :
       {result->disk_write, result->disk_read, result->disk_both, result->page_cache_read_core,
        result->page_cache_read_all, result->digest_core, result->digest_all, result->cast_core,
        result->cast_all, result->memory_read_core, result->memory_read_all, result->fma_flops_core,
        result->fma_flops_all}) {
    EXPECT_TRUE(std::isfinite(rate));
    EXPECT_GT(rate, 1e6);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir));
  std::filesystem::remove_all(dir);
  const std::string json = ToJson(*result);
  EXPECT_EQ(json.front(), '{');
  EXPECT_EQ(json.back(), '}');
  EXPECT_NE(json.find("\"cast_all_bytes_per_second\":"), std::string::npos);
  EXPECT_NE(json.find("\"threads\":2"), std::string::npos);
  EXPECT_EQ(json.find('\n'), std::string::npos);
}

TEST(Probe, AFolderThatIsNotThereIsATypedError) {
  ProbeOptions options;
  options.dir = "/nonexistent/octavo";
  options.threads = 1;
  const absl::StatusOr<ProbeResult> result = RunProbe(options);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(ReasonOf(result.status()), Reason::kInputMissing);
  EXPECT_NE(std::string(result.status().message()).find("/nonexistent/octavo"), std::string::npos);
}

TEST(ProbeOps, ReadEveryByteOnceOnEveryInstructionSet) {
  alignas(64) unsigned char data[2 * kProbeReadMultiple];
  for (size_t i = 0; i < sizeof(data); ++i) data[i] = static_cast<unsigned char>(i * 7 + i / 256);
  const uint64_t want = ProbeOpsFor(Isa::kReference).read_streams(data, sizeof(data));
  for (const Isa isa : kIsasBestFirst) {
    if (!IsSupported(isa)) continue;
    EXPECT_EQ(ProbeOpsFor(isa).read_streams(data, sizeof(data)), want);
    EXPECT_GT(ProbeOpsFor(isa).multiply_add(1000), 0.0f);
    EXPECT_GT(ProbeOpsFor(isa).flops_per_round, 0u);
  }
  data[777] ^= 1;
  EXPECT_NE(ProbeOpsFor(BestIsa()).read_streams(data, sizeof(data)), want);
}

}  // namespace
}  // namespace octavo
