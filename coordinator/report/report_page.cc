#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

#include "coordinator/report/report.h"
#include "coordinator/report/svg.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Nothing may be loaded and nothing run, even if a name in the page said so.
constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
)";

constexpr std::string_view kStyle = R"(<style>
:root { --ground: #ffffff; --text: #1b1f24; --soft: #59636e; --line: #d8dee4; --mark: #0b57b0; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181d; --text: #e6e9ed; --soft: #9aa5b1; --line: #343c45; --mark: #6cb2ff; }
}
body { margin: 0 auto; padding: 24px; max-width: 960px; background: var(--ground);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 4px; }
h3 { font-size: 14px; margin: 12px 0 0; }
p { margin: 4px 0 8px; } p.note, p.legend { color: var(--soft); font-size: 13px; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 16px 0; }
.facts b { display: block; font-size: 20px; font-weight: 600; }
.facts span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
td code, pre { font: 12px/1.5 ui-monospace, monospace; } code { overflow-wrap: anywhere; }
pre { border: 1px solid var(--line); padding: 8px 12px; overflow-x: auto; }
svg { display: block; width: 100%; height: auto; margin: 8px 0; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.cell { fill: var(--mark); } .grid { stroke: var(--line); stroke-width: 1; }
.bar { stroke: var(--mark); stroke-width: 8; stroke-linecap: round; }
.line { fill: none; stroke: var(--mark); stroke-width: 1.5; } .dot { fill: var(--mark); }
.swatch { display: inline-block; width: 14px; height: 14px; background: var(--mark);
  vertical-align: -2px; }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  gap: 4px 24px; }
</style>
)";

std::string Percent(double share) { return fmt::format("{:.3f} %", 100 * share); }

std::string Count(double value) { return fmt::format("{:.0f}", value); }

std::string Megabytes(uint64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

double ShareOf(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string Section(std::string_view title, std::string_view note) {
  return fmt::format("<h2>{}</h2>\n<p class=\"note\">{}</p>\n", title, note);
}

std::string Fact(std::string_view name, std::string_view value) {
  return fmt::format("<div><b>{}</b><span>{}</span></div>\n", HtmlText(value), HtmlText(name));
}

// One table; the first column holds names.
class Table {
 public:
  explicit Table(const std::vector<std::string>& names) {
    text_ = "<div class=\"wide\"><table>\n<tr>";
    for (const std::string& name : names) text_ += "<th>" + HtmlText(name) + "</th>";
    text_ += "</tr>\n";
  }
  void Row(std::string_view name, const std::vector<std::string>& cells) {
    text_ += "<tr><td><code>" + HtmlText(name) + "</code></td>";
    for (const std::string& cell : cells) text_ += "<td>" + HtmlText(cell) + "</td>";
    text_ += "</tr>\n";
  }
  std::string Text() const { return text_ + "</table></div>\n"; }

 private:
  std::string text_;
};

std::string Facts(const v1::Plan& plan, const Figures& figures) {
  std::string out = "<div class=\"facts\">\n";
  out += Fact("weights quantized", fmt::format("{}", figures.all.tensors));
  out += Fact("tensors kept", fmt::format("{}", figures.kept_tensors));
  out += Fact("source tensors", Megabytes(plan.source_bytes()));
  out += Fact("output", Megabytes(plan.output_bytes()));
  out += Fact("relative error of all weights", Percent(figures.all.RelativeError()));
  out += Fact("codes at the largest magnitude",
              Percent(ShareOf(figures.all.saturated, figures.all.elements)));
  out += Fact("all-zero groups", fmt::format("{}", figures.all.zero_groups));
  if (plan.has_calibration()) {
    out += Fact("calibration", fmt::format("{} tokens", figures.calibration_tokens));
  }
  if (!figures.smoothed.empty()) {
    out += Fact("norms smoothed", fmt::format("{}", figures.smoothed.size()));
  }
  double rounded = 0;
  double solved = 0;
  for (const v1::SolveFigures& one : figures.solved) {
    rounded += one.error_before();
    solved += one.error_after();
  }
  if (rounded > 0) {
    out += Fact("squared output error, solved over rounded", Percent(solved / rounded));
  }
  if (figures.solved_experts > 0) {
    out +=
        Fact("experts' Hessians with few tokens",
             fmt::format("{} shrunk, {} left for rounding to nearest, of {}",
                         figures.shrunk_experts, figures.rounded_experts, figures.solved_experts));
  }
  return out + "</div>\n";
}

std::string ErrorByLayer(const v1::Plan& plan, const Figures& figures) {
  Heatmap map{.name = "Relative error by layer and role",
              .column_name = "layer",
              .row_name = "role",
              .rows = {},
              .values = {},
              .format = Percent};
  const auto layers = static_cast<size_t>(std::max<int64_t>(plan.model().layer_count(), 0));
  for (const GroupFigures& group : figures.layers_by_role) {
    const std::string role = RoleName(group.place.role);
    if (map.rows.empty() || map.rows.back() != role) {
      map.rows.push_back(role);
      map.values.emplace_back(layers);
    }
    const auto layer = static_cast<size_t>(group.place.layer);
    if (layer < layers) map.values.back()[layer] = group.weights.RelativeError();
  }
  return Section("Error by layer and role",
                 "Relative error: the root of the squared error over that of the source's squares. "
                 "Experts of one role and layer are taken together.") +
         HeatmapSvg(map);
}

std::string ErrorByRole(const Figures& figures) {
  Table table(
      {"role", "tensors", "relative error", "largest error", "at largest code", "all-zero groups"});
  for (const GroupFigures& group : figures.roles) {
    const WeightFigures& weights = group.weights;
    table.Row(RoleName(group.place.role),
              {fmt::format("{}", weights.tensors), Percent(weights.RelativeError()),
               ShortNumber(weights.max_abs_error),
               fmt::format("{} ({})", weights.saturated,
                           Percent(ShareOf(weights.saturated, weights.elements))),
               fmt::format("{}", weights.zero_groups)});
  }
  return Section("Error by role",
                 "Largest error: of a single weight. A code has the largest magnitude where its "
                 "weight is the maximum of its group, or was clipped to the range.") +
         table.Text();
}

std::string WorstTensors(const Figures& figures) {
  Table table({"tensor", "format", "relative error", "largest error", "scales"});
  for (const TensorFigures* tensor : figures.worst) {
    const WeightFigures& weights = tensor->weights;
    table.Row(tensor->name,
              {FigureFormat(tensor->format), Percent(weights.RelativeError()),
               ShortNumber(weights.max_abs_error),
               weights.scale_max == 0 ? std::string("none")
                                      : fmt::format("{} to {}", ShortNumber(weights.scale_min),
                                                    ShortNumber(weights.scale_max))});
  }
  return Section("Ten worst tensors", "By relative error.") + table.Text();
}

std::string WeightScales(const Figures& figures) {
  RangePlot plot{.name = "Weight scales by role", .rows = {}};
  for (const GroupFigures& group : figures.roles) {
    if (group.weights.scale_max == 0) continue;
    plot.rows.push_back(
        {RoleName(group.place.role), group.weights.scale_min, group.weights.scale_max});
  }
  return Section("Weight scales by role",
                 "Smallest to largest scale as stored, without groups that are all zero. A weight "
                 "is its code times its scale.") +
         RangeSvg(plot);
}

std::string StaticScales(const v1::Plan& plan, const Figures& figures) {
  if (figures.scales.empty()) return "";
  const auto layers = static_cast<size_t>(std::max<int64_t>(plan.model().layer_count(), 0));
  std::map<v1::ObservedPoint, LinePlot> plots;
  for (const ScaleFigures& scale : figures.scales) {
    LinePlot& plot = plots[scale.point];
    plot.column_name = "layer";
    plot.values.resize(layers);
    const auto layer = static_cast<size_t>(scale.layer);
    if (layer >= layers) continue;
    auto& value = plot.values[layer];
    value = std::max(value.value_or(0), static_cast<double>(scale.scale));
  }
  std::string out =
      Section("Static scales by layer",
              fmt::format("Of inputs, keys and values, by calibration: observer {}, {} samples, {} "
                          "tokens. The largest magnitude that can be stored is 448 times the "
                          "scale.",
                          ObserverName(plan.recipe().calibration().observer()),
                          figures.calibration_samples, figures.calibration_tokens));
  out += "<div class=\"small\">\n";
  for (auto& [point, plot] : plots) {
    plot.name = "Scale of " + FigurePoint(point);
    out += fmt::format("<div><h3>{}</h3>\n{}</div>\n", FigurePoint(point), LineSvg(plot));
  }
  return out + "</div>\n";
}

std::string ExpertCoverage(const v1::Plan& plan, const Figures& figures) {
  if (figures.experts.empty()) return "";
  const auto layers = static_cast<size_t>(std::max<int64_t>(plan.model().layer_count(), 0));
  const auto experts = static_cast<size_t>(std::max<int64_t>(plan.model().expert_count(), 0));
  Heatmap map{.name = "Tokens routed by expert and layer",
              .column_name = "layer",
              .row_name = "expert",
              .rows = {},
              .values = {},
              .format = Count};
  for (size_t expert = 0; expert < experts; ++expert) {
    map.rows.push_back(fmt::format("{}", expert));
  }
  map.values.assign(experts, std::vector<std::optional<double>>(layers));
  const ExpertFigures* least = &figures.experts.front();
  for (const ExpertFigures& figure : figures.experts) {
    if (figure.routed < least->routed) least = &figure;
    const auto expert = static_cast<size_t>(figure.expert);
    const auto layer = static_cast<size_t>(figure.layer);
    if (expert < experts && layer < layers) {
      map.values[expert][layer] = static_cast<double>(figure.routed);
    }
  }
  return Section("Expert coverage",
                 fmt::format("Calibration tokens that the router sent to each of {} experts, by "
                             "layer. Fewest: expert {} of layer {}, {} of {} tokens; with those "
                             "that were only observed it saw {}.",
                             experts, least->expert, least->layer, least->routed,
                             figures.calibration_tokens, least->rows)) +
         HeatmapSvg(map);
}

std::string Warnings(const v1::Plan& plan) {
  if (plan.warnings().empty()) return "";
  Table table({"tensor", "warning"});
  for (const v1::Warning& warning : plan.warnings()) table.Row(warning.tensor(), {warning.text()});
  return Section("Warnings", "From planning.") + table.Text();
}

std::string Provenance(const v1::Plan& plan, const v1::Manifest& manifest) {
  std::string out =
      Section("Provenance",
              "XXH3-128 digests. Of source weights those of the safetensors headers; of output "
              "files as octavo_manifest.json has them, by range.");
  out += "<pre>" + HtmlText(RecipeYaml(manifest.recipe())) + "</pre>\n";
  if (plan.has_calibration()) {
    out += fmt::format("<p>Calibration ids: <code>{}</code></p>\n",
                       FigureDigest(plan.calibration().ids()));
  }
  Table sources({"source file", "bytes", "digest of the header"});
  for (const v1::SourceFile& file : manifest.sources()) {
    sources.Row(file.name(), {fmt::format("{}", file.size()), FigureDigest(file.header_digest())});
  }
  Table outputs({"output file", "bytes", "digest"});
  for (const v1::ManifestFile& file : manifest.files()) {
    outputs.Row(file.name(), {fmt::format("{}", file.size()), FigureDigest(file.digest())});
  }
  return out + sources.Text() + "<p></p>\n" + outputs.Text();
}

}  // namespace

std::string ReportPage(const v1::Plan& plan, const v1::Manifest& manifest, const Figures& figures) {
  const v1::Recipe& recipe = plan.recipe();
  std::string out(kHead);
  out += fmt::format("<title>Quantization report: {}</title>\n", HtmlText(recipe.name()));
  out += kStyle;
  out += "</head>\n<body>\n";
  out += fmt::format("<h1>Quantized with {}</h1>\n<p>{}</p>\n", HtmlText(recipe.name()),
                     HtmlText(recipe.description()));
  out += fmt::format(
      "<p class=\"note\">{}, {} layers; dialect {}. The same figures for programs: "
      "{}.</p>\n",
      HtmlText(plan.model().family()), plan.model().layer_count(), HtmlText(recipe.dialect()),
      kReportName);
  out += Facts(plan, figures);
  if (!figures.tensors.empty()) {
    out += ErrorByLayer(plan, figures) + ErrorByRole(figures) + WorstTensors(figures) +
           WeightScales(figures);
  }
  out += StaticScales(plan, figures) + ExpertCoverage(plan, figures) + Warnings(plan) +
         Provenance(plan, manifest);
  return out + "</body>\n</html>\n";
}

}  // namespace octavo
