#include <algorithm>
#include <cctype>

#include "coordinator/report/report.h"
#include "core/base/checksum.h"
#include "core/scheme/compat.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using nlohmann::ordered_json;

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// Floats as the double of the same value; 0 stands for "there is none".
ordered_json ScaleOrNull(float scale) {
  return scale == 0 ? ordered_json(nullptr) : ordered_json(static_cast<double>(scale));
}

void AddWeights(const WeightFigures& weights, ordered_json* json) {
  (*json)["elements"] = weights.elements;
  (*json)["relative_error"] = weights.RelativeError();
  (*json)["squared_error"] = weights.squared_error;
  (*json)["squared_source"] = weights.squared_source;
  (*json)["max_abs_error"] = weights.max_abs_error;
  (*json)["saturated"] = weights.saturated;
  (*json)["zero_groups"] = weights.zero_groups;
  (*json)["scale_min"] = ScaleOrNull(weights.scale_min);
  (*json)["scale_max"] = ScaleOrNull(weights.scale_max);
}

ordered_json FormatJson(const v1::NumericFormat& format) {
  ordered_json json;
  json["type"] = format.type() == v1::NUMERIC_INT8 ? "int8" : "fp8";
  switch (format.granularity()) {
    case v1::PER_TENSOR:
      json["scale"] = "tensor";
      break;
    case v1::PER_BLOCK:
      json["scale"] = "block";
      json["block"] = {format.block_rows(), format.block_columns()};
      break;
    default:
      json["scale"] = "channel";
  }
  return json;
}

ordered_json TensorJson(const TensorFigures& tensor) {
  ordered_json json;
  json["tensor"] = tensor.name;
  json["role"] = RoleName(tensor.place.role);
  json["layer"] = tensor.place.layer;
  if (tensor.place.expert >= 0) json["expert"] = tensor.place.expert;
  json["format"] = FormatJson(tensor.format);
  AddWeights(tensor.weights, &json);
  return json;
}

ordered_json GroupsJson(const std::vector<GroupFigures>& groups, bool role, bool layer) {
  ordered_json json = ordered_json::array();
  for (const GroupFigures& group : groups) {
    ordered_json entry;
    if (role) entry["role"] = RoleName(group.place.role);
    if (layer) entry["layer"] = group.place.layer;
    entry["tensors"] = group.weights.tensors;
    AddWeights(group.weights, &entry);
    json.push_back(std::move(entry));
  }
  return json;
}

ordered_json WeightsJson(const Figures& figures) {
  ordered_json json;
  json["tensors"] = figures.all.tensors;
  json["kept_tensors"] = figures.kept_tensors;
  AddWeights(figures.all, &json);
  json["by_role"] = GroupsJson(figures.roles, true, false);
  json["by_layer"] = GroupsJson(figures.layers, false, true);
  json["by_role_and_layer"] = GroupsJson(figures.layers_by_role, true, true);
  json["worst"] = ordered_json::array();
  for (const TensorFigures* tensor : figures.worst) {
    json["worst"].push_back(
        {{"tensor", tensor->name}, {"relative_error", tensor->weights.RelativeError()}});
  }
  json["by_tensor"] = ordered_json::array();
  for (const TensorFigures& tensor : figures.tensors) {
    json["by_tensor"].push_back(TensorJson(tensor));
  }
  return json;
}

// What solvers came to, a Hessian each.
ordered_json SolvedJson(const Figures& figures) {
  ordered_json json = ordered_json::array();
  for (const v1::SolveFigures& solved : figures.solved) {
    ordered_json entry;
    entry["layer"] = solved.layer();
    if (solved.expert() >= 0) entry["expert"] = solved.expert();
    entry["point"] = FigurePoint(solved.point());
    entry["tensors"] = solved.tensors();
    entry["tokens"] = solved.tokens();
    if (solved.expert() >= 0) {
      entry["shrinkage"] = solved.shrinkage();
      entry["mean_tokens"] = solved.mean_tokens();
    }
    entry["dampings_tried"] = solved.dampings();
    entry["dead_channels"] = solved.dead_channels();
    entry["output_error_rounded"] = solved.error_before();
    entry["output_error_solved"] = solved.error_after();
    entry["rows"] = solved.rows();
    entry["rows_rounded_to_nearest"] = solved.nearest_rows();
    entry["rows_sparse_before"] = solved.sparse_rows();
    json.push_back(std::move(entry));
  }
  return json;
}

// The powers of two that smoothing folded, a norm each.
ordered_json SmoothedJson(const Figures& figures) {
  ordered_json json = ordered_json::array();
  for (const v1::SmoothFigures& smoothed : figures.smoothed) {
    json.push_back({{"layer", smoothed.layer()},
                    {"point", FigurePoint(smoothed.point())},
                    {"exponent_min", smoothed.exponent_min()},
                    {"exponent_max", smoothed.exponent_max()},
                    {"channels_changed", smoothed.changed()}});
  }
  return json;
}

ordered_json CalibrationJson(const v1::Plan& plan, const Figures& figures) {
  if (!plan.has_calibration()) return nullptr;
  const v1::Calibration& calibration = plan.recipe().calibration();
  ordered_json json;
  json["observer"] = ObserverName(calibration.observer());
  if (calibration.observer() == v1::OBSERVER_PERCENTILE) {
    json["percentile"] = calibration.percentile();
  }
  json["samples"] = figures.calibration_samples;
  json["tokens"] = figures.calibration_tokens;
  json["ids_digest"] = FigureDigest(plan.calibration().ids());
  json["scales"] = ordered_json::array();
  for (const ScaleFigures& scale : figures.scales) {
    ordered_json entry;
    entry["layer"] = scale.layer;
    if (scale.expert >= 0) entry["expert"] = scale.expert;
    entry["point"] = FigurePoint(scale.point);
    entry["scale"] = static_cast<double>(scale.scale);
    entry["amax"] = static_cast<double>(scale.amax);
    entry["rows"] = scale.rows;
    entry["tensors"] = scale.tensors;
    json["scales"].push_back(std::move(entry));
  }
  json["experts"] = ordered_json::array();
  for (const ExpertFigures& expert : figures.experts) {
    json["experts"].push_back({{"layer", expert.layer},
                               {"expert", expert.expert},
                               {"rows", expert.rows},
                               {"routed", expert.routed},
                               {"input_amax", static_cast<double>(expert.input_amax)},
                               {"inner_amax", static_cast<double>(expert.inner_amax)}});
  }
  if (!figures.solved.empty()) json["solved"] = SolvedJson(figures);
  if (figures.solved_experts > 0) {
    json["solved_experts"] = {{"hessians", figures.solved_experts},
                              {"shrunk", figures.shrunk_experts},
                              {"rounded", figures.rounded_experts}};
  }
  if (!figures.smoothed.empty()) json["smoothed"] = SmoothedJson(figures);
  return json;
}

ordered_json ProvenanceJson(const v1::Manifest& manifest) {
  const std::string recipe = RecipeYaml(manifest.recipe());
  ordered_json json;
  json["digest"] = "xxh3-128";
  json["recipe"] = {{"yaml", recipe}, {"digest", DigestOf(recipe).Hex()}};
  json["sources"] = ordered_json::array();
  for (const v1::SourceFile& source : manifest.sources()) {
    json["sources"].push_back({{"file", source.name()},
                               {"bytes", source.size()},
                               {"header_digest", FigureDigest(source.header_digest())}});
  }
  json["outputs"] = ordered_json::array();
  for (const v1::ManifestFile& file : manifest.files()) {
    json["outputs"].push_back(
        {{"file", file.name()}, {"bytes", file.size()}, {"digest", FigureDigest(file.digest())}});
  }
  return json;
}

}  // namespace

std::string FigurePoint(v1::ObservedPoint point) {
  constexpr std::string_view kPrefix = "OBSERVED_";
  return Lower(v1::ObservedPoint_Name(point).substr(kPrefix.size()));
}

std::string FigureFormat(const v1::NumericFormat& format) {
  const char* type = format.type() == v1::NUMERIC_INT8 ? "int8" : "fp8";
  if (format.granularity() == v1::PER_TENSOR) return fmt::format("{} per tensor", type);
  if (format.granularity() == v1::PER_CHANNEL) return fmt::format("{} per channel", type);
  return fmt::format("{} per {} x {} block", type, format.block_rows(), format.block_columns());
}

std::string FigureDigest(const v1::Digest& digest) {
  return Digest128{digest.low(), digest.high()}.Hex();
}

std::string ReportJson(const v1::Plan& plan, const v1::Manifest& manifest, const Figures& figures) {
  const v1::ModelSpec& model = plan.model();
  ordered_json json;
  json["format"] = "octavo-quantization-report-1";
  json["recipe"] = {{"name", plan.recipe().name()}, {"dialect", plan.recipe().dialect()}};
  if (plan.recipe().compat() != v1::COMPAT_NONE) {
    json["recipe"]["compat"] = std::string(CompatModeOf(plan.recipe().compat()).name);
  }
  json["model"] = {{"family", model.family()},
                   {"layers", model.layer_count()},
                   {"hidden_size", model.hidden_size()},
                   {"experts", model.expert_count()},
                   {"experts_per_token", model.experts_per_token()}};
  json["bytes"] = {{"source_tensors", plan.source_bytes()}, {"output", plan.output_bytes()}};
  json["weights"] = WeightsJson(figures);
  json["calibration"] = CalibrationJson(plan, figures);
  json["warnings"] = ordered_json::array();
  for (const v1::Warning& warning : plan.warnings()) {
    json["warnings"].push_back({{"tensor", warning.tensor()}, {"text", warning.text()}});
  }
  json["provenance"] = ProvenanceJson(manifest);
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace octavo
