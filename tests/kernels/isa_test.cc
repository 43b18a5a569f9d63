#include "kernels/isa.h"

#include <set>
#include <string>
#include <tuple>

#include "gtest/gtest.h"
#include "kernels/table.h"

namespace octavo {
namespace {

TEST(Isa, NamesParseBack) {
  for (const Isa isa : kIsasBestFirst) EXPECT_EQ(ParseIsa(Name(isa)), isa);
  EXPECT_EQ(ParseIsa("auto"), BestIsa());
  EXPECT_FALSE(ParseIsa("sse9").has_value());
  EXPECT_FALSE(ParseIsa("").has_value());
}

TEST(Isa, DetectionAgreesWithTheCompilersOwn) {
  EXPECT_TRUE(IsSupported(Isa::kReference));
  EXPECT_EQ(IsSupported(Isa::kAvx2),
            __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  EXPECT_EQ(IsSupported(Isa::kAvx512),
            __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"));
  EXPECT_TRUE(IsSupported(BestIsa()));
}

TEST(KernelTable, HasEveryOpForEveryInstructionSetOnce) {
  std::set<std::tuple<std::string, std::string, Isa>> seen;
  for (const KernelRow& row : AllKernelRows()) {
    EXPECT_TRUE(seen.emplace(std::string(row.op), std::string(row.dtype), row.isa).second);
  }
  for (const auto& [op, dtype, isa] : seen) {
    EXPECT_TRUE(seen.contains({op, dtype, Isa::kReference})) << op << " has no reference";
  }
  const std::string text = KernelTable(Isa::kReference);
  EXPECT_NE(text.find("cast_row"), std::string::npos);
  EXPECT_NE(text.find("yes *"), std::string::npos);
}

}  // namespace
}  // namespace octavo
