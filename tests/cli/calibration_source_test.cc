#include "cli/calibration_source.h"

#include <unistd.h>

#include <filesystem>

#include "CLI/CLI.hpp"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/text/calibration_text.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CalibrationSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + fmt::format("calibration-{}", getpid());
    WriteTinyLlama({.vocab = 4000}, dir_);
    WriteText(dir_ + "/tokenizer.json", ReadGolden("llama3.tokenizer.json"));
    calibrated_.set_name("static");
    calibrated_.mutable_calibration()->set_samples(3);
    calibrated_.mutable_calibration()->set_sample_length(4);
    plain_.set_name("dynamic");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string File(const std::string& name, const std::string& text) const {
    WriteText(dir_ + "/" + name, text);
    return dir_ + "/" + name;
  }
  std::string Refusal(const v1::Recipe& recipe, const CalibrationFlags& flags,
                      Reason reason) const {
    const auto set = LoadCalibration(recipe, dir_, flags);
    EXPECT_FALSE(set.ok());
    if (set.ok()) return "";
    EXPECT_EQ(ReasonOf(set.status()), reason) << set.status();
    return std::string(set.status().message());
  }

  std::string dir_;
  v1::Recipe calibrated_;
  v1::Recipe plain_;
};

TEST_F(CalibrationSourceTest, IdsAreLittleEndianAndDigested) {
  const std::string file = File("a.jsonl", "{\"ids\": [258, 3]}\n{\"ids\": [1, 1, 1, 1, 1]}\n");
  const auto set = LoadCalibration(calibrated_, dir_, {.input = file});
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_TRUE(set->has_value());
  EXPECT_THAT((*set)->sample_lengths(), ElementsAre(2, 4));
  EXPECT_EQ((*set)->ids().substr(0, 12), std::string("\2\1\0\0\3\0\0\0\1\0\0\0", 12));
  EXPECT_EQ((*set)->ids().size(), 24u);
  const Digest128 digest = DigestOf((*set)->ids());
  EXPECT_EQ((*set)->digest().low(), digest.low);
  EXPECT_EQ((*set)->digest().high(), digest.high);
}

TEST_F(CalibrationSourceTest, FlagsGoBeforeTheRecipe) {
  const auto set = LoadCalibration(
      calibrated_, dir_, {.input = "random", .samples = 2, .sample_length = 5, .seed = 9});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT((*set)->sample_lengths(), ElementsAre(5, 5));
  const auto recipe = LoadCalibration(calibrated_, dir_, {.input = "random"});
  ASSERT_TRUE(recipe.ok());
  EXPECT_THAT((*recipe)->sample_lengths(), ElementsAre(4, 4, 4));
}

TEST_F(CalibrationSourceTest, SamplesOfTheRecipeAreNoLongerThanTheModelTakes) {
  calibrated_.mutable_calibration()->set_sample_length(1 << 20);
  const auto set = LoadCalibration(calibrated_, dir_, {.input = "random"});
  ASSERT_TRUE(set.ok()) << set.status();
  const uint32_t positions = (*set)->sample_lengths(0);
  EXPECT_LT(positions, 1u << 20);
  EXPECT_THAT(
      Refusal(calibrated_, {.input = "random", .sample_length = positions + 1}, Reason::kUsage),
      HasSubstr("--sample-length"));
}

TEST_F(CalibrationSourceTest, TextIsTokenizedAsTheCheckpointDoes) {
  const std::string file = File("a.txt", "Some words to calibrate with, and some more.");
  const auto set = LoadCalibration(calibrated_, dir_, {.input = file, .samples = 1});
  ASSERT_TRUE(set.ok()) << set.status();
  const auto tokenizer = LoadTokenizer(ReadGolden("llama3.tokenizer.json"));
  const auto ids = (*tokenizer)->Encode("Some words to calibrate with, and some more.", {});
  std::string expected;
  for (int i = 0; i < 4; ++i) {
    expected.append(reinterpret_cast<const char*>(&(*ids)[i]), sizeof(int32_t));
  }
  EXPECT_EQ((*set)->ids(), expected);
}

TEST_F(CalibrationSourceTest, FlagsAndRecipeMustFit) {
  EXPECT_THAT(Refusal(calibrated_, {}, Reason::kUsage),
              AllOf(HasSubstr("recipe static"), HasSubstr("--calibration is missing")));
  EXPECT_THAT(Refusal(plain_, {.input = "random"}, Reason::kUsage),
              AllOf(HasSubstr("--calibration is given"), HasSubstr("recipe dynamic")));
  EXPECT_THAT(Refusal(plain_, {.seed = 1}, Reason::kUsage), HasSubstr("--seed is given"));
  EXPECT_THAT(Refusal(calibrated_, {.input = "random", .packing = "each"}, Reason::kUsage),
              HasSubstr("--packing"));
  const auto none = LoadCalibration(plain_, dir_, {});
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
}

TEST_F(CalibrationSourceTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(Refusal(calibrated_, {.input = dir_ + "/none.txt"}, Reason::kInputMissing),
              HasSubstr("none.txt"));
  const std::string file = File("a.txt", "text");
  std::filesystem::remove(dir_ + "/tokenizer.json");
  EXPECT_THAT(Refusal(calibrated_, {.input = file}, Reason::kInputMissing),
              HasSubstr("neither tokenizer.json nor tokenizer.model"));
  // Ids need no tokenizer.
  EXPECT_TRUE(
      LoadCalibration(calibrated_, dir_, {.input = File("a.jsonl", "{\"ids\": [1]}")}).ok());
  std::filesystem::remove(dir_ + "/config.json");
  EXPECT_THAT(Refusal(calibrated_, {.input = "random"}, Reason::kInputMissing),
              HasSubstr("config.json"));
}

TEST_F(CalibrationSourceTest, AnInterruptStopsTokenizing) {
  std::stop_source stop;
  stop.request_stop();
  const std::string file = File("a.txt", "Some words to calibrate with.");
  const auto set = LoadCalibration(calibrated_, dir_, {.input = file}, stop.get_token());
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(ReasonOf(set.status()), Reason::kCancelled);
}

TEST(CalibrationFlagsTest, AreParsed) {
  CLI::App app;
  CalibrationFlags flags;
  AddCalibrationFlags(app, flags);
  app.parse(
      "--calibration f --samples 7 --sample-length 9 --seed 18446744073709551615 "
      "--packing each");
  EXPECT_EQ(flags.input, "f");
  EXPECT_EQ(flags.samples, 7u);
  EXPECT_EQ(flags.sample_length, 9u);
  EXPECT_EQ(flags.seed, UINT64_MAX);
  EXPECT_EQ(flags.packing, "each");
  EXPECT_THROW(app.parse("--packing both"), CLI::ParseError);
  EXPECT_THROW(app.parse("--samples 0"), CLI::ParseError);
}

}  // namespace
}  // namespace octavo
