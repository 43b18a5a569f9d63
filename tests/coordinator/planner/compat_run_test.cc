// Compatibility modes through a whole calibrated job.

#include <algorithm>
#include <map>

#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/scale.h"
#include "gtest/gtest.h"
#include "tests/coordinator/planner/calibrated_run.h"

namespace octavo {
namespace {

std::map<std::string, v1::ScaleReport> ScalesOf(const Made& run) {
  std::map<std::string, v1::ScaleReport> scales;
  for (const v1::Receipt& receipt : run.receipts) {
    for (const v1::ScaleReport& report : receipt.scales()) scales[report.tensor()] = report;
  }
  return scales;
}

class CompatRun : public ::testing::TestWithParam<const char*> {};

TEST_P(CompatRun, ObservesWhereTheToolDoes) {
  const TestFolder folder;
  const std::string source = folder / "src";
  ASSERT_TRUE(WriteSynthetic(Spec(GetParam()), 7, source).ok());
  v1::CalibrationSet set = RandomSamples(12, 3);
  set.set_sample_lengths(0, set.sample_lengths(0) - 1);
  set.mutable_sample_lengths()->Add(1);  // a sample of one token passes most experts by
  std::map<v1::Compat, std::map<std::string, v1::ScaleReport>> scales;
  for (const v1::Compat compat :
       {v1::COMPAT_NONE, v1::COMPAT_AUTOFP8, v1::COMPAT_QUARK_2024, v1::COMPAT_QUARK_0_13}) {
    v1::Recipe recipe = *Preset("fp8-static-kv");
    recipe.set_compat(compat);
    const std::string name = folder / ("out" + std::to_string(compat));
    Made first = Prepare(source, name, recipe, set);
    Made second = Prepare(source, name + "again", recipe, set);
    Stages wide(BestIsa());
    Stages plain(Isa::kReference);
    const auto bytes = Finished(&first, &wide, 1);
    EXPECT_EQ(bytes, Finished(&second, &plain, 2, 3));
    scales[compat] = ScalesOf(first);
    EXPECT_EQ(scales[compat].size(), scales[v1::COMPAT_NONE].size());
  }
  int moved = 0;
  for (const auto& [tensor, own] : scales[v1::COMPAT_NONE]) {
    const v1::ScaleReport& autofp8 = scales[v1::COMPAT_AUTOFP8][tensor];
    const v1::ScaleReport& quark = scales[v1::COMPAT_QUARK_2024][tensor];
    EXPECT_EQ(quark.scale(), F32FromBf16(Bf16FromF32(quark.amax() / 448))) << tensor;
    EXPECT_EQ(scales[v1::COMPAT_QUARK_0_13][tensor].scale(), quark.scale()) << tensor;
    EXPECT_EQ(autofp8.scale(), 1 / Bf16Factor(BitsOf(autofp8.amax()))) << tensor;
    const std::string layer = tensor.substr(0, tensor.rfind('.'));
    if (tensor.ends_with("k_scale")) {
      EXPECT_LE(own.amax(), autofp8.amax() * 1.42f);
      EXPECT_LE(autofp8.amax(), own.amax() * 1.42f);
      moved += own.amax() != autofp8.amax();
      const float joint =
          std::max(autofp8.amax(), scales[v1::COMPAT_AUTOFP8][layer + ".v_scale"].amax());
      EXPECT_EQ(quark.amax(), joint);
      EXPECT_EQ(scales[v1::COMPAT_QUARK_2024][layer + ".v_scale"].amax(), joint);
    } else if (tensor.find("experts") == std::string::npos) {
      EXPECT_EQ(autofp8.amax(), own.amax()) << tensor;
    } else {
      EXPECT_LE(quark.amax(), own.amax()) << tensor;  // of one expert, not of all
      EXPECT_TRUE(autofp8.amax() == quark.amax() || autofp8.amax() == 16) << tensor;
    }
  }
  EXPECT_GT(moved, 0);
  int unvisited = 0;
  for (const auto& [tensor, autofp8] : scales[v1::COMPAT_AUTOFP8]) {
    unvisited += tensor.ends_with("w1.input_scale") && autofp8.amax() == 16;
  }
  EXPECT_GE(unvisited, std::string(GetParam()) == "mixtral" ? 3 * 2 : 0);  // two of four a layer
}

INSTANTIATE_TEST_SUITE_P(Families, CompatRun, ::testing::Values("llama", "mixtral"));

}  // namespace
}  // namespace octavo
