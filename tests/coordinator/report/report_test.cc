#include "coordinator/report/report.h"

#include <cmath>

#include "coordinator/report/svg.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/report/made_up_job.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kQuery[] = "model.layers.0.self_attn.q_proj.weight";

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

struct Written {
  nlohmann::json json;
  std::string page;
};

Written Write(MadeUpJob& job) {
  v1::Manifest manifest;
  *manifest.mutable_recipe() = job.plan().recipe();
  manifest.add_sources()->set_name("model-00001-of-00002.safetensors");
  manifest.mutable_sources(0)->set_size(1234);
  manifest.mutable_sources(0)->mutable_header_digest()->set_high(0x1234);
  manifest.add_files()->set_name("config.json");
  manifest.mutable_files(0)->mutable_digest()->set_low(0x99);
  const Figures figures = MakeFigures(job.plan(), job.by_unit());
  return {nlohmann::json::parse(ReportJson(job.plan(), manifest, figures)),
          ReportPage(job.plan(), manifest, figures)};
}

MadeUpJob Mixture() {
  MadeUpJob job("mixtral", 3, 2);
  job.Calibrated({60, 40});
  for (const int layer : {0, 2}) {
    v1::PieceReport report =
        Report("model.layers." + std::to_string(layer) + ".self_attn.q_proj.weight", 1 + layer, 16);
    report.set_scale_min(0.001f);
    report.set_scale_max(0.25f);
    report.set_saturated(4);
    job.Cast(report);
  }
  job.Scale(0, v1::OBSERVED_ATTENTION_INPUT, 0.5f, 224, {"model.layers.0.self_attn.q_proj.s"});
  job.Saw(0, 0, 150, 150, 7, 3);
  job.Saw(0, 1, 60, 50, 7, 3);
  return job;
}

TEST(ReportJson, SaysWhatTheFiguresSay) {
  MadeUpJob job = Mixture();
  v1::Warning& warning = *job.plan().add_warnings();
  warning.set_tensor(kQuery);
  warning.set_text("odd shape");
  const nlohmann::json json = Write(job).json;
  EXPECT_EQ(json["format"], "octavo-quantization-report-1");
  EXPECT_EQ(json["recipe"]["name"], "made-up");
  EXPECT_EQ(json["model"]["layers"], 3);
  EXPECT_EQ(json["weights"]["tensors"], 2);
  EXPECT_EQ(json["weights"]["relative_error"], std::sqrt(4.0 / 32));
  EXPECT_EQ(json["weights"]["saturated"], 8);
  const nlohmann::json& cell = json["weights"]["by_role_and_layer"][1];
  EXPECT_EQ(cell["role"], "q_proj");
  EXPECT_EQ(cell["layer"], 2);
  EXPECT_EQ(cell["relative_error"], std::sqrt(3.0 / 16));
  EXPECT_EQ(json["weights"]["worst"][0]["tensor"], "model.layers.2.self_attn.q_proj.weight");
  const nlohmann::json& tensor = json["weights"]["by_tensor"][0];
  EXPECT_EQ(tensor["tensor"], kQuery);
  EXPECT_EQ(tensor["format"], (nlohmann::json{{"type", "fp8"}, {"scale", "channel"}}));
  EXPECT_EQ(tensor["scale_min"].get<float>(), 0.001f);
  EXPECT_EQ(tensor["scale_max"], 0.25);
  EXPECT_FALSE(tensor.contains("expert"));
  EXPECT_EQ(json["calibration"]["tokens"], 100);
  EXPECT_EQ(json["calibration"]["ids_digest"], "00000000000000000000000000000abc");
  EXPECT_EQ(json["calibration"]["scales"][0]["point"], "attention_input");
  EXPECT_EQ(json["calibration"]["scales"][0]["amax"], 224);
  EXPECT_EQ(json["calibration"]["experts"][1]["rows"], 60);
  EXPECT_EQ(json["calibration"]["experts"][1]["routed"], 50);
  EXPECT_EQ(json["warnings"][0]["text"], "odd shape");
  EXPECT_EQ(json["provenance"]["sources"][0]["header_digest"], "00000000000012340000000000000000");
  EXPECT_EQ(json["provenance"]["outputs"][0]["file"], "config.json");
  EXPECT_EQ(json["provenance"]["recipe"]["digest"].get<std::string>().size(), 32u);
}

TEST(ReportJson, WithoutCalibrationAndWithoutScales) {
  MadeUpJob job;
  job.Cast(Report(kQuery, 0, 0));
  const nlohmann::json json = Write(job).json;
  EXPECT_TRUE(json["calibration"].is_null());
  EXPECT_EQ(json["weights"]["relative_error"], 0);
  EXPECT_TRUE(json["weights"]["scale_min"].is_null());
}

TEST(Report, CountsExpertsWithFewTokens) {
  MadeUpJob job = Mixture();
  job.Solved(-1, 100, 0, {0.01});
  job.Solved(0, 60, 0, {0.01});
  job.Solved(1, 30, 0.25, {0.01, 0.1});
  job.Solved(2, 20, 0.5, {0.01});
  job.Solved(3, 1, 0, {});
  const Written written = Write(job);
  const nlohmann::json& calibration = written.json["calibration"];
  EXPECT_EQ(calibration["solved_experts"],
            (nlohmann::json{{"hessians", 4}, {"shrunk", 2}, {"rounded", 1}}));
  EXPECT_FALSE(calibration["solved"][0].contains("shrinkage"));
  EXPECT_EQ(calibration["solved"][1]["shrinkage"], 0);
  EXPECT_EQ(calibration["solved"][2]["shrinkage"], 0.25);
  EXPECT_EQ(calibration["solved"][2]["mean_tokens"], 77);
  EXPECT_THAT(written.page, HasSubstr("2 shrunk, 1 left for rounding to nearest, of 4"));
  MadeUpJob dense = Mixture();
  dense.Solved(-1, 100, 0, {0.01});
  const Written plain = Write(dense);
  EXPECT_FALSE(plain.json["calibration"].contains("solved_experts"));
  EXPECT_THAT(plain.page, Not(HasSubstr("rounding to nearest")));
}

TEST(ReportPage, HasEveryPlotAndLoadsNothing) {
  MadeUpJob job = Mixture();
  const std::string page = Write(job).page;
  // Cells: two layers of one role, two experts of one layer.
  EXPECT_EQ(CountOf(page, "<rect class=\"cell\""), 4u);
  EXPECT_EQ(CountOf(page, "class=\"bar\""), 1u);
  EXPECT_EQ(CountOf(page, "<circle class=\"dot\""), 1u);
  EXPECT_EQ(CountOf(page, "<svg "), 4u);
  EXPECT_EQ(CountOf(page, "<svg "), CountOf(page, "</svg>"));
  EXPECT_THAT(page, HasSubstr("<title>layer 2, role q_proj: 43.301 %</title>"));
  EXPECT_THAT(
      page,
      HasSubstr(
          "expert 1 of layer 0, 50 of 100 tokens; with those that were only observed it saw 60."));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  for (const char* loads : {"<script", "<link", "<img", "src=", "href=", "url(", "@import", "//"}) {
    EXPECT_THAT(page, Not(HasSubstr(loads)));
  }
}

TEST(ReportPage, NamesAreText) {
  MadeUpJob job;
  job.plan().mutable_recipe()->set_name("<script>\"'&");
  job.Cast(Report("<b>weight</b>", 1, 4));
  const std::string page = Write(job).page;
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("<b>weight")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;&quot;&#39;&amp;"));
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;weight&lt;/b&gt;"));
}

TEST(ReportPage, LeavesOutWhatThereIsNothingOf) {
  MadeUpJob job;
  job.Copy("model.norm.weight");
  const std::string page = Write(job).page;
  EXPECT_THAT(page, Not(HasSubstr("<svg")));
  EXPECT_THAT(page, Not(HasSubstr("Expert coverage")));
  EXPECT_THAT(page, HasSubstr("Provenance"));
}

TEST(Svg, AMapOfOneValueAndOfNone) {
  Heatmap map{.name = "m",
              .column_name = "layer",
              .row_name = "role",
              .rows = {"r"},
              .values = {{std::nullopt, 2.0}},
              .format = ShortNumber};
  EXPECT_THAT(HeatmapSvg(map), HasSubstr("fill-opacity=\"1.000\""));
  EXPECT_EQ(CountOf(HeatmapSvg(map), "<rect"), 1u);
  map.values = {{std::nullopt}};
  EXPECT_EQ(HeatmapSvg(map), "");
}

TEST(Svg, RangesLieBetweenPowersOfTwo) {
  const std::string svg = RangeSvg({.name = "s", .rows = {{"a", 0.25, 0.375}, {"b", 1, 1}}});
  // The axis goes from 2^-2 to 2^0, 560 wide from 130 on: an octave is 280; 0.375 is halfway.
  EXPECT_THAT(svg, HasSubstr("x1=\"130.0\" y1=\"17.0\" x2=\"270.0\""));
  EXPECT_THAT(svg, HasSubstr("x1=\"690.0\" y1=\"39.0\" x2=\"690.0\""));
  EXPECT_THAT(svg, HasSubstr("2^-2"));
  EXPECT_THAT(svg, HasSubstr("0.25 to 0.375"));
}

TEST(Svg, LinesStartAtZero) {
  const std::string svg =
      LineSvg({.name = "l", .column_name = "layer", .values = {4.0, std::nullopt, 1.0}});
  // 90 high from 6 on, 24 wide per layer from 70 on.
  EXPECT_THAT(svg, HasSubstr("points=\"82.0,6.0 130.0,73.5 \""));
  EXPECT_THAT(svg, HasSubstr("<title>layer 2: 1</title>"));
  EXPECT_EQ(LineSvg({.name = "l", .column_name = "layer", .values = {std::nullopt}}), "");
}

}  // namespace
}  // namespace octavo
