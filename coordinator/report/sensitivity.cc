#include "coordinator/report/sensitivity.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "coordinator/report/report.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/model/family.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/tree.h"
#include "core/tensor/bare/units.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using nlohmann::ordered_json;

constexpr char kSensitivityFormat[] = "octavo-sensitivity-1";

uint64_t QuantizedBytes(const v1::Piece& piece) {
  const int64_t rows = piece.row_end() - piece.row_begin();
  const int64_t columns = piece.source().shape(1);
  const v1::NumericFormat& format = piece.format();
  int64_t scales = 1;
  if (format.granularity() == v1::PER_CHANNEL) scales = rows;
  if (format.granularity() == v1::PER_BLOCK) {
    scales = CeilDiv(rows, int64_t{format.block_rows()}) *
             CeilDiv(columns, int64_t{format.block_columns()});
  }
  return static_cast<uint64_t>(rows * columns + scales * ByteSize(FromProto(piece.scale_dtype())));
}

// A tensor, and its figures over each part of the tokens.
struct MeasuredTensor {
  SensitivityTensor tensor;
  std::vector<std::array<double, 4>> parts;  // output, both, weights, inputs
};

struct MeasuredGroup {
  SensitivityGroup group;
  std::vector<MeasuredTensor> tensors;
};

double Ratio(double error, double output) { return output > 0 ? error / output : 0; }

SensitivityErrors ErrorsOf(const std::array<double, 4>& sums) {
  return {Ratio(sums[1], sums[0]), Ratio(sums[2], sums[0]), Ratio(sums[3], sums[0])};
}

SensitivityGroup CloseGroup(MeasuredGroup open) {
  std::array<double, 4> all = {};
  for (MeasuredTensor& tensor : open.tensors) {
    auto& parts = tensor.parts;
    for (const MergeStep& step : MergeSteps(static_cast<int>(parts.size()))) {
      for (size_t i = 0; i < 4; ++i) parts[step.into][i] += parts[step.from][i];
    }
    for (size_t i = 0; i < 4; ++i) all[i] += parts.front()[i];
    tensor.tensor.squared_output = parts.front()[0];
    tensor.tensor.errors = ErrorsOf(parts.front());
    open.group.source_bytes += tensor.tensor.source_bytes;
    open.group.quantized_bytes += tensor.tensor.quantized_bytes;
    open.group.tensors.push_back(std::move(tensor.tensor));
  }
  open.group.errors = ErrorsOf(all);
  return std::move(open.group);
}

class SensitivityCollector {
 public:
  explicit SensitivityCollector(const v1::Plan& plan)
      : model_(plan.model()), family_(FamilyByName(plan.model().family())) {}

  void Add(const v1::Unit& unit, const v1::Receipt& receipt) {
    const v1::HessianSpec& spec = unit.hessian();
    MeasuredGroup& open = groups_[{unit.layer(), spec.point()}];
    open.group.layer = static_cast<int32_t>(unit.layer());
    open.group.point = spec.point();
    open.group.inputs_measured = spec.has_input();
    for (int i = 0; i < receipt.outputs_size(); ++i) {
      const v1::OutputError& seen = receipt.outputs(i);
      MeasuredTensor& tensor = Find(unit.pieces(i), spec.expert(), &open);
      tensor.tensor.tokens += seen.tokens();
      tensor.parts.push_back(
          {seen.squared_output(), seen.error(), seen.weights_error(), seen.inputs_error()});
    }
  }

  std::vector<SensitivityGroup> Finish() {
    std::vector<SensitivityGroup> groups;
    for (auto& [key, open] : groups_) groups.push_back(CloseGroup(std::move(open)));
    return groups;
  }

 private:
  MeasuredTensor& Find(const v1::Piece& piece, int32_t expert, MeasuredGroup* open) {
    const v1::TensorSpec& source = piece.source();
    const auto [at, inserted] = index_.try_emplace({source.name(), expert}, open->tensors.size());
    if (!inserted) return open->tensors[at->second];
    MeasuredTensor& tensor = open->tensors.emplace_back();
    tensor.tensor.name = source.name();
    tensor.tensor.expert = expert;
    tensor.tensor.source_bytes = (source.end() - source.begin()) /
                                 static_cast<uint64_t>(source.shape(0)) *
                                 static_cast<uint64_t>(piece.row_end() - piece.row_begin());
    tensor.tensor.quantized_bytes = QuantizedBytes(piece);
    if (family_ == nullptr) return tensor;
    if (const auto place = RoleOf(source.name(), *family_, model_))
      tensor.tensor.role = place->role;
    return tensor;
  }

  const v1::ModelSpec& model_;
  const Family* family_;
  std::map<std::pair<uint32_t, v1::ObservedPoint>, MeasuredGroup> groups_;
  std::map<std::pair<std::string, int32_t>, size_t> index_;  // of an expert's tensor in its group
};

ordered_json ErrorsJson(const SensitivityErrors& errors, bool inputs_measured) {
  ordered_json json = {{"error", errors.both}, {"weights_error", errors.weights}};
  json["inputs_error"] = inputs_measured ? ordered_json(errors.inputs) : ordered_json(nullptr);
  return json;
}

ordered_json SensitivityGroupJson(const SensitivityGroup& group) {
  ordered_json json = {{"layer", group.layer}, {"point", FigurePoint(group.point)}};
  json.update(ErrorsJson(group.errors, group.inputs_measured));
  json["share"] = group.share;
  json["source_bytes"] = group.source_bytes;
  json["quantized_bytes"] = group.quantized_bytes;
  json["tensors"] = ordered_json::array();
  for (const SensitivityTensor& tensor : group.tensors) {
    ordered_json entry = {{"tensor", tensor.name}, {"role", RoleName(tensor.role)}};
    if (tensor.expert >= 0) entry["expert"] = tensor.expert;
    entry["tokens"] = tensor.tokens;
    entry.update(ErrorsJson(tensor.errors, group.inputs_measured));
    entry["squared_output"] = tensor.squared_output;
    entry["source_bytes"] = tensor.source_bytes;
    entry["quantized_bytes"] = tensor.quantized_bytes;
    json["tensors"].push_back(std::move(entry));
  }
  return json;
}

v1::ObservedPoint PointNamed(const std::string& name) {
  for (int point = v1::OBSERVED_ATTENTION_INPUT; point <= v1::OBSERVED_MLP_INNER; ++point) {
    const auto known = static_cast<v1::ObservedPoint>(point);
    if (FigurePoint(known) == name) return known;
  }
  return v1::OBSERVED_UNSPECIFIED;
}

}  // namespace

Sensitivity MakeSensitivity(const v1::Plan& plan, std::span<const v1::Receipt* const> by_unit) {
  SensitivityCollector collector(plan);
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() == v1::UNIT_SENSE) collector.Add(unit, *by_unit[unit.id()]);
  }
  Sensitivity all;
  all.groups = collector.Finish();
  for (const SensitivityGroup& group : all.groups) all.whole += group.errors.both;
  for (SensitivityGroup& group : all.groups) group.share = Ratio(group.errors.both, all.whole);
  std::stable_sort(all.groups.begin(), all.groups.end(),
                   [](const SensitivityGroup& a, const SensitivityGroup& b) {
                     return a.errors.both > b.errors.both;
                   });
  all.samples = static_cast<uint64_t>(plan.calibration().sample_lengths_size());
  for (const uint32_t length : plan.calibration().sample_lengths()) all.tokens += length;
  return all;
}

std::string SensitivityText(const v1::Plan& plan, const Sensitivity& sensitivity) {
  ordered_json json;
  json["format"] = kSensitivityFormat;
  json["recipe"] = {{"name", plan.recipe().name()},
                    {"dialect", plan.recipe().dialect()},
                    {"yaml", RecipeYaml(plan.recipe())}};
  json["model"] = {{"family", plan.model().family()},
                   {"layers", plan.model().layer_count()},
                   {"hidden_size", plan.model().hidden_size()},
                   {"experts", plan.model().expert_count()}};
  json["sources"] = ordered_json::array();
  for (const v1::SourceFile& source : plan.sources()) {
    json["sources"].push_back({{"file", source.name()},
                               {"bytes", source.size()},
                               {"header_digest", FigureDigest(source.header_digest())}});
  }
  json["samples"] = sensitivity.samples;
  json["tokens"] = sensitivity.tokens;
  json["ids_digest"] = FigureDigest(plan.calibration().ids());
  json["whole_error"] = sensitivity.whole;
  json["groups"] = ordered_json::array();
  for (const SensitivityGroup& group : sensitivity.groups) {
    json["groups"].push_back(SensitivityGroupJson(group));
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Sensitivity> ParseSensitivity(std::string_view text, std::string_view file) {
  const auto bad = [&](std::string_view what) {
    return MakeError(Reason::kBadData, what, {.file = file}, "Measure again");
  };
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("format", "") != kSensitivityFormat) {
    return bad(fmt::format("not a file of the format {}", kSensitivityFormat));
  }
  Sensitivity all;
  try {  // the library's way to say that something is missing; it goes no further
    all.whole = json.at("whole_error").get<double>();
    all.samples = json.at("samples").get<uint64_t>();
    all.tokens = json.at("tokens").get<uint64_t>();
    for (const nlohmann::json& entry : json.at("groups")) {
      SensitivityGroup& group = all.groups.emplace_back();
      group.layer = entry.at("layer").get<int32_t>();
      group.point = PointNamed(entry.at("point").get<std::string>());
      group.errors.both = entry.at("error").get<double>();
      group.errors.weights = entry.at("weights_error").get<double>();
      group.inputs_measured = !entry.at("inputs_error").is_null();
      if (group.inputs_measured) group.errors.inputs = entry.at("inputs_error").get<double>();
      group.share = entry.at("share").get<double>();
      group.source_bytes = entry.at("source_bytes").get<uint64_t>();
      group.quantized_bytes = entry.at("quantized_bytes").get<uint64_t>();
      for (const nlohmann::json& tensor : entry.at("tensors")) {
        SensitivityTensor& own = group.tensors.emplace_back();
        own.name = tensor.at("tensor").get<std::string>();
        own.expert = tensor.value("expert", -1);
      }
    }
  } catch (const nlohmann::json::exception& error) {
    return bad(error.what());
  }
  return all;
}

}  // namespace octavo
