#include "core/scheme/legality.h"

#include <limits>

#include "core/base/error.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

bool Equal(const v1::Recipe& a, const v1::Recipe& b) {
  return google::protobuf::util::MessageDifferencer::Equals(a, b);
}

std::string Message(std::string_view yaml) {
  const auto recipe = ParseRecipe(yaml, "r.yaml");
  if (recipe.ok()) return "parsed";
  EXPECT_EQ(ReasonOf(recipe.status()), Reason::kBadRecipe);
  return std::string(recipe.status().message());
}

// A recipe of one rule with static inputs, and what follows the rules.
std::string Static(std::string_view dialect, std::string_view rest) {
  return "name: a\ndialect: " + std::string(dialect) +
         "\nrules:\n  - weight: {type: fp8, scale: tensor}\n    input: {type: fp8, scale: "
         "tensor}\n" +
         std::string(rest);
}

TEST(Legality, StaticScalesRoundTrip) {
  for (const std::string_view dialect : {"compressed-tensors", "fp8", "quark"}) {
    for (const std::string_view rest :
         {"calibration: {observer: absmax, samples: 1, sample_length: 1048576}\n",
          "calibration: {observer: mse, samples: 65536, sample_length: 7, coverage: natural}\n",
          "calibration: {observer: mse, samples: 6, sample_length: 7, coverage: all}\n",
          "calibration: {observer: mse, samples: 6, sample_length: 7, coverage: quota "
          "4294967293}\n",
          "calibration: {samples: 128, percentile: 99.99, sample_length: 512, observer: "
          "percentile}\nkv_cache: {type: fp8, scale: tensor}\n",
          "kv_cache: none\n"
          "calibration: {percentile: 1e-300, observer: percentile, samples: 3, sample_length: "
          "4}\n"}) {
      const auto recipe = ParseRecipe(Static(dialect, rest), "static.yaml");
      ASSERT_TRUE(recipe.ok()) << recipe.status() << rest;
      EXPECT_EQ(recipe->has_kv_cache(), rest.find("kv_cache: {") != rest.npos);
      const auto again = ParseRecipe(RecipeYaml(*recipe), "again");
      ASSERT_TRUE(again.ok()) << again.status() << RecipeYaml(*recipe);
      EXPECT_TRUE(Equal(*recipe, *again)) << RecipeYaml(*recipe);
    }
  }
  const auto only_cache = ParseRecipe(
      "rules: [{weight: keep}]\nname: a\nkv_cache: {type: fp8, scale: tensor}\n"
      "calibration: {observer: absmax, samples: 2, sample_length: 3}\n",
      "a");
  ASSERT_TRUE(only_cache.ok()) << only_cache.status();
  EXPECT_TRUE(Equal(*only_cache, *ParseRecipe(RecipeYaml(*only_cache), "again")));
}

TEST(Legality, CalibrationIsThereExactlyWhereSomethingIsStatic) {
  const std::string good = "calibration: {observer: absmax, samples: 2, sample_length: 3}\n";
  EXPECT_EQ(Message(Static("fp8", good)), "parsed");
  EXPECT_THAT(Message(Static("fp8", "")),
              HasSubstr("r.yaml:4: a static scale needs a calibration"));
  EXPECT_THAT(Message("name: a\nrules: [{weight: keep}]\nkv_cache: {type: fp8, scale: tensor}\n"),
              HasSubstr("r.yaml:3: a static scale needs a calibration"));
  EXPECT_THAT(Message("name: a\n" + good + "rules: [{weight: keep}]\n"),
              HasSubstr("r.yaml:2: a calibration, but no rule has a solver or a static input"));
  const std::pair<const char*, const char*> cases[] = {
      {"{observer: minmax, samples: 2, sample_length: 3}", "observer 'minmax' is not known"},
      {"{samples: 2, sample_length: 3}", "calibration lacks the key 'observer'"},
      {"{observer: mse, samples: 2, sample_length: 3, propagate: source}", "goes with a solver"},
      {"{observer: mse, samples: 2, sample_length: 3, propagate: both}", "propagate 'both'"},
      {"{observer: mse, samples: 2}", "calibration lacks the key 'sample_length'"},
      {"{observer: mse, samples: 0, sample_length: 3}", "samples must be a whole number from 1"},
      {"{observer: mse, samples: 65537, sample_length: 3}", "from 1 to 65536"},
      {"{observer: mse, samples: 2, sample_length: 1048577}", "from 1 to 1048576"},
      {"{observer: mse, samples: 2.5, sample_length: 3}", "samples must be a whole number"},
      {"{observer: mse, percentile: 99, samples: 2, sample_length: 3}", "'percentile' goes with"},
      {"{observer: percentile, samples: 2, sample_length: 3}", "'percentile' goes with"},
      {"{observer: percentile, percentile: 100.5, samples: 2, sample_length: 3}",
       "percentile must be a number above 0, at most 100"},
      {"{observer: percentile, percentile: nan, samples: 2, sample_length: 3}",
       "percentile must be a number above 0"},
      {"{observer: mse, samples: 2, sample_length: 3, seed: 4}", "unknown key in calibration"},
      {"{observer: mse, samples: 2, sample_length: 3, coverage: some}",
       "coverage must be 'natural'"},
      {"{observer: mse, samples: 2, sample_length: 3, coverage: quota 0}", "coverage must be"},
      {"{observer: mse, samples: 2, sample_length: 3, coverage: quota 4294967295}", "or 'quota N'"},
      {"{observer: mse, samples: 2, sample_length: 3, coverage: quota 7x}", "N of 1 or more"},
      {"absmax", "calibration must be a mapping"}};
  for (const auto& [text, what] : cases) {
    const std::string message = Message(Static("fp8", "calibration: " + std::string(text) + "\n"));
    EXPECT_THAT(message, HasSubstr("r.yaml:6: ")) << text;
    EXPECT_THAT(message, HasSubstr(what)) << text;
  }
  EXPECT_THAT(Message("name: a\nrules: [{weight: keep}]\nkv_cache: {type: fp8, scale: token}\n"),
              HasSubstr("r.yaml:3: 'token' is not a scale of kv_cache"));
  EXPECT_THAT(
      Message("name: a\nrules: [{weight: keep}]\nkv_cache: {type: int8, scale: tensor}\n"),
      HasSubstr("r.yaml:3: readers have keys and values as {type: fp8, scale: tensor} only"));
}

TEST(Legality, SolversNeedACalibrationAndInputsWithoutOne) {
  const auto solved = [](std::string_view input, std::string_view solver, std::string_view rest) {
    return fmt::format(
        "name: a\nrules:\n  - weight: {{type: fp8, scale: channel}}\n    input: {}\n    solver: "
        "{}\n{}",
        input, solver, rest);
  };
  const std::string token = "{type: fp8, scale: token}";
  const std::string calibration = "calibration: {samples: 2, sample_length: 3}\n";
  for (const std::string solver :
       {"{type: gptq}", "{type: gptq, damping: 0.003, order: natural}", "{type: sparsegpt}"}) {
    for (const std::string& rest :
         {calibration,
          std::string("calibration: {samples: 2, sample_length: 3, propagate: source}\n")}) {
      const auto recipe = ParseRecipe(solved(token, solver, rest), "r.yaml");
      ASSERT_TRUE(recipe.ok()) << recipe.status();
      EXPECT_TRUE(HasSolver(*recipe));
      const auto again = ParseRecipe(RecipeYaml(*recipe), "again");
      ASSERT_TRUE(again.ok()) << again.status() << RecipeYaml(*recipe);
      EXPECT_TRUE(Equal(*recipe, *again)) << RecipeYaml(*recipe);
    }
  }
  EXPECT_THAT(Message(solved(token, "{type: gptq}", "")),
              HasSubstr("a solver needs a calibration"));
  EXPECT_TRUE(ParseRecipe(solved("{type: fp8, scale: tensor}", "{type: gptq}",
                                 "calibration: {observer: mse, samples: 2, sample_length: 3}\n"),
                          "r.yaml")
                  .ok());
  EXPECT_THAT(Message(solved(token, "{type: obs}", calibration)), HasSubstr("type 'obs'"));
  EXPECT_THAT(Message(solved(token, "{type: gptq, damping: 2}", calibration)),
              HasSubstr("damping must be a number above 0, at most 1"));
  EXPECT_THAT(Message(solved(token, "{type: gptq, block: 128}", calibration)),
              HasSubstr("unknown key in solver"));
  EXPECT_THAT(Message(solved(token, "{type: gptq}", calibration + "compat: llm-compressor\n")),
              HasSubstr("compat and a solver"));
  EXPECT_THAT(Message("name: a\nrules: [{weight: keep, solver: {type: gptq}}]\n"),
              HasSubstr("takes no input, algorithm or solver"));
}

TEST(Legality, SmoothNeedsACalibrationAndNoStaticInput) {
  const auto smoothed = [](std::string_view weight, std::string_view input, std::string_view rest) {
    return fmt::format("name: a\nrules:\n  - weight: {}\n    input: {}\n{}", weight, input, rest);
  };
  const std::string weight = "{type: int8, scale: channel}";
  const std::string token = "{type: int8, scale: token}";
  const std::string calibration = "calibration: {samples: 2, sample_length: 3}\n";
  const auto recipe =
      ParseRecipe(smoothed(weight, token, "smooth: {strength: 0.25}\n" + calibration), "r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->smooth().strength(), 0.25);
  EXPECT_TRUE(IsLayerwise(*recipe));
  EXPECT_FALSE(HasSolver(*recipe));
  EXPECT_TRUE(Equal(*recipe, *ParseRecipe(RecipeYaml(*recipe), "again")));
  const std::string half = "smooth: {strength: 0.5}\n";
  const std::tuple<std::string, const char*> cases[] = {
      {smoothed(weight, token, half), "smooth needs a calibration"},
      {smoothed(weight, token, "smooth: {strength: 0}\n" + calibration), "strength must be"},
      {smoothed(weight, token, "smooth: {strength: 1.5}\n" + calibration), "strength must be"},
      {smoothed(weight, token, "smooth: {}\n" + calibration), "smooth lacks the key 'strength'"},
      {smoothed(weight, token, "smooth: 0.5\n" + calibration), "smooth must be a mapping"},
      {smoothed(weight, token, half + calibration + "compat: llm-compressor\n"), "compat"},
      {smoothed("{type: fp8, scale: tensor}", "{type: fp8, scale: tensor}",
                half + "calibration: {observer: mse, samples: 2, sample_length: 3}\n"),
       "static scales are of what the source's read"}};
  for (const auto& [text, what] : cases) EXPECT_THAT(Message(text), HasSubstr(what)) << text;
}

TEST(Legality, WhatAProcessIsSentIsCheckedLikeAFile) {
  v1::Recipe recipe = *Preset("fp8-static-kv");
  EXPECT_TRUE(CheckRecipe(recipe).ok());
  const auto message = [](const v1::Recipe& bad) {
    const absl::Status status = CheckRecipe(bad);
    EXPECT_EQ(ReasonOf(status), Reason::kBadRecipe);
    EXPECT_EQ(ReasonOf(ResolveSchemes(bad, {}).status()), Reason::kBadRecipe);
    return std::string(status.message());
  };
  v1::Recipe bad = recipe;
  bad.mutable_kv_cache()->set_dynamic(true);
  EXPECT_THAT(message(bad), HasSubstr("kv_cache: readers have"));
  bad = recipe;
  bad.mutable_calibration()->set_observer(v1::OBSERVER_PERCENTILE);
  bad.mutable_calibration()->set_percentile(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(message(bad), HasSubstr("calibration: percentile must be"));
  bad = recipe;
  bad.mutable_calibration()->set_sample_length(0);
  EXPECT_THAT(message(bad), HasSubstr("sample_length must be 1 to"));
  bad = recipe;
  bad.clear_calibration();
  EXPECT_THAT(message(bad), HasSubstr("rule 1: a static scale needs"));
  bad = recipe;
  bad.mutable_rules(0)->mutable_scheme()->mutable_input()->set_dynamic(true);
  EXPECT_THAT(message(bad), HasSubstr("rule 1: FP8 tensor / FP8 tensor dynamic is not possible"));
  bad = recipe;
  bad.set_dialect("gptq");
  EXPECT_THAT(message(bad), HasSubstr("dialect 'gptq' is not known"));
}

TEST(Legality, EveryDialectRefusesWhatItCannotSay) {
  const std::string channel = "{type: fp8, scale: channel}";
  const std::string tensor = "{type: fp8, scale: tensor}";
  const std::string block = "{type: fp8, scale: block, block: [128, 128]}";
  const std::string int8 = "{type: int8, scale: channel}";
  const std::string token = "{type: fp8, scale: token}";
  const std::string group = "{type: fp8, scale: group, group: 128}";
  struct Case {
    std::string dialect, weight, input, what;
  };
  const std::vector<Case> cases = {
      {"fp8", tensor, token, "parsed"},
      {"fp8", tensor, tensor, "parsed"},
      {"fp8", block, group, "parsed"},
      {"quark", tensor, tensor, "parsed"},
      {"compressed-tensors", tensor, tensor, "parsed"},
      {"fp8", channel, token, "one scale per matrix, none per channel (fp8)"},
      {"fp8", tensor, "none", "no weights without FP8 inputs (fp8)"},
      {"fp8", int8, "{type: int8, scale: token}", "no INT8 (fp8)"},
      {"fp8", block, tensor, "block scales take inputs"},
      {"quark", tensor, token, "depend on its neighbours (quark)"},
      {"quark", channel, tensor, "none per channel (quark)"},
      {"quark", block, group, "none per block (quark)"},
      {"quark", int8, "{type: int8, scale: tensor}", "no INT8 (quark)"},
      {"compressed-tensors", channel, tensor, "parsed"},
      {"compressed-tensors", block, tensor, "block scales take inputs"},
      {"compressed-tensors", int8, "{type: int8, scale: tensor}", "INT8 takes scale: channel"}};
  for (const Case& c : cases) {
    const bool is_static = c.input.find("scale: tensor") != std::string::npos;
    // The dialect stands below the rules: what a rule may say does not depend on the order of keys.
    const std::string yaml =
        "name: a\nrules:\n  - weight: " + c.weight + "\n    input: " + c.input +
        "\ndialect: " + c.dialect + "\n" +
        (is_static ? "calibration: {observer: mse, samples: 2, sample_length: 3}\n" : "");
    const std::string message = Message(yaml);
    EXPECT_THAT(message, HasSubstr(c.what)) << yaml;
    EXPECT_THAT(message, HasSubstr(c.what == "parsed" ? "parsed" : "r.yaml:3: ")) << yaml;
  }
  EXPECT_THAT(Message("name: a\ndialect: fp8\nrules:\n"
                      "  - {roles: [o_proj], weight: keep}\n"
                      "  - {roles: [down_proj], weight: {type: fp8, scale: tensor}, input: {type: "
                      "fp8, scale: token}}\n"
                      "  - {weight: {type: fp8, scale: block, block: [128, 128]}, input: {type: "
                      "fp8, scale: group, group: 128}}\n"),
              HasSubstr("r.yaml:6: FP8 block 128x128 / FP8 group 128 dynamic is not possible: the "
                        "dialect fp8 has one scheme for all layers, and an earlier one is FP8 "
                        "tensor / FP8 token dynamic"));
  EXPECT_THAT(Message("name: a\nrules: [{weight: keep}]\ndialect: awq\n"),
              HasSubstr("r.yaml:3: dialect 'awq' is not known"));
}

}  // namespace
}  // namespace octavo
