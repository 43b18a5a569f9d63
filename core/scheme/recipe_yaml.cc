#include <array>
#include <charconv>
#include <set>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/compat.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "core/scheme/yaml_reader.h"
#include "core/scheme/yaml_shape.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

constexpr size_t kRecipeBytesMax = 64u << 10;
constexpr size_t kRulesMax = 256;
constexpr size_t kPatternBytesMax = 256;
constexpr size_t kNameBytesMax = 64;
constexpr size_t kDescriptionBytesMax = 512;
constexpr int kBlockMax = 1 << 20;

constexpr std::array kRuleRoles = {v1::Q_PROJ,    v1::K_PROJ,      v1::V_PROJ,    v1::O_PROJ,
                                   v1::GATE_PROJ, v1::UP_PROJ,     v1::DOWN_PROJ, v1::EXPERT_GATE,
                                   v1::EXPERT_UP, v1::EXPERT_DOWN, v1::LM_HEAD};

constexpr std::array<std::string_view, 2> kTypeNames = {"fp8", "int8"};
constexpr std::array<std::string_view, 2> kAlgorithmNames = {"absmax", "mse"};
constexpr std::array<std::string_view, 2> kSolverNames = {"gptq", "sparsegpt"};
constexpr std::array<std::string_view, 2> kOrderNames = {"natural", "activation"};
constexpr std::array<std::string_view, 2> kPropagateNames = {"quantized", "source"};
constexpr std::array<std::string_view, 2> kStorageNames = {"dense", "sparse-24-bitmask"};
constexpr double kDampingDefault = 0.01;
constexpr std::array<std::string_view, 3> kObserverNames = {"absmax", "percentile", "mse"};
constexpr std::array kObservers = {v1::OBSERVER_ABSMAX, v1::OBSERVER_PERCENTILE, v1::OBSERVER_MSE};

// The scales that a weight, an input or the cache may have.
struct FormatKind {
  std::string_view what;
  std::span<const std::string_view> names;
  std::span<const v1::Granularity> values;
};
constexpr std::array<std::string_view, 3> kWeightScaleNames = {"tensor", "channel", "block"};
constexpr std::array kWeightScales = {v1::PER_TENSOR, v1::PER_CHANNEL, v1::PER_BLOCK};
constexpr std::array<std::string_view, 3> kInputScaleNames = {"token", "group", "tensor"};
constexpr std::array kInputScales = {v1::PER_TOKEN, v1::PER_GROUP, v1::PER_TENSOR};
constexpr FormatKind kWeight = {"weight", kWeightScaleNames, kWeightScales};
constexpr FormatKind kInput = {"input", kInputScaleNames, kInputScales};
constexpr FormatKind kCache = {"kv_cache", std::span(kWeightScaleNames).first(1),
                               std::span(kWeightScales).first(1)};

// One document, read strictly.
class RecipeReader : public YamlReader {
 public:
  using YamlReader::YamlReader;

  absl::StatusOr<v1::Recipe> ReadRecipe(const YAML::Node& root);

 private:
  absl::Status ReadRule(const YAML::Node& node, v1::Rule* rule);
  absl::Status ReadRoles(const YAML::Node& node, v1::Rule* rule);
  absl::Status ReadFormat(const YAML::Node& node, const FormatKind& kind,
                          v1::NumericFormat* format);
  absl::Status ReadWeight(const YAML::Node& node, v1::NumericFormat* format);
  absl::Status ReadInput(const YAML::Node& node, v1::Scheme* scheme);
  absl::Status ReadSolver(const YAML::Node& node, v1::Solver* solver);
  absl::Status ReadStorage(const YAML::Node& node, v1::Recipe* recipe);
  absl::Status ReadSmooth(const YAML::Node& node, v1::Recipe* recipe);
  absl::Status ReadCache(const YAML::Node& node, v1::Recipe* recipe);
  absl::StatusOr<uint32_t> Coverage(const YAML::Node& node);
  absl::Status ReadCalibration(const YAML::Node& node, v1::Calibration* calibration);
};

absl::Status RecipeReader::ReadRoles(const YAML::Node& node, v1::Rule* rule) {
  if (!node.IsSequence() || node.size() == 0) {
    return Error(node.Mark(), "roles must be a list of roles", "Leave it out to match every role");
  }
  for (const YAML::Node& item : node) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string name, Text(item, "a role", kNameBytesMax));
    std::vector<std::string> names;
    bool found = false;
    for (const v1::TensorRole role : kRuleRoles) {
      names.push_back(RoleName(role));
      if (names.back() != name) continue;
      found = true;
      for (const int earlier : rule->roles()) {
        if (earlier == role)
          return Error(item.Mark(), fmt::format("role '{}' appears twice", name));
      }
      rule->add_roles(role);
    }
    if (!found) {
      return Error(item.Mark(), fmt::format("'{}' is not a role that rules can match", name),
                   fmt::format("Roles: {}", fmt::join(names, ", ")));
    }
  }
  return absl::OkStatus();
}

absl::Status RecipeReader::ReadFormat(const YAML::Node& node, const FormatKind& kind,
                                      v1::NumericFormat* format) {
  auto read_type = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t type, Word(value, "type", kTypeNames));
    format->set_type(type == 0 ? v1::NUMERIC_FP8_E4M3 : v1::NUMERIC_INT8);
    return absl::OkStatus();
  };
  auto read_scale = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const std::string name, Text(value, "scale", kNameBytesMax));
    for (size_t i = 0; i < kind.names.size(); ++i) {
      if (kind.names[i] == name) format->set_granularity(kind.values[i]);
    }
    if (format->granularity() != v1::GRANULARITY_UNSPECIFIED) return absl::OkStatus();
    return Error(value.Mark(), fmt::format("'{}' is not a scale of {}", name, kind.what),
                 fmt::format("Scales: {}", fmt::join(kind.names, ", ")));
  };
  auto read_block = [&](const YAML::Node& value) -> absl::Status {
    if (!value.IsSequence() || value.size() != 2) {
      return Error(value.Mark(), "block must be [rows, columns]");
    }
    OCTAVO_ASSIGN_OR_RETURN(const int rows, Number(value[0], "block rows", kBlockMax));
    OCTAVO_ASSIGN_OR_RETURN(const int columns, Number(value[1], "block columns", kBlockMax));
    format->set_block_rows(rows);
    format->set_block_columns(columns);
    return absl::OkStatus();
  };
  auto read_group = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const int columns, Number(value, "group", kBlockMax));
    format->set_block_columns(columns);
    return absl::OkStatus();
  };
  std::vector<Key> keys = {Key{"type", true, read_type}, Key{"scale", true, read_scale}};
  if (&kind == &kWeight) keys.push_back({"block", false, read_block});
  if (&kind == &kInput) keys.push_back({"group", false, read_group});
  OCTAVO_RETURN_IF_ERROR(ReadMap(node, kind.what, keys));
  const bool needs_size =
      format->granularity() == v1::PER_BLOCK || format->granularity() == v1::PER_GROUP;
  if (needs_size != (format->block_columns() != 0)) {
    return Error(node.Mark(), &kind == &kWeight
                                  ? "'block' goes with scale: block, and only with it"
                                  : "'group' goes with scale: group, and only with it");
  }
  return absl::OkStatus();
}

absl::Status RecipeReader::ReadWeight(const YAML::Node& node, v1::NumericFormat* format) {
  if (node.IsScalar() && node.Scalar() == "keep") {
    format->set_type(v1::NUMERIC_KEEP);
    return absl::OkStatus();
  }
  if (!node.IsMap()) {
    return Error(node.Mark(), "weight must be 'keep' or a mapping {type: ..., scale: ...}");
  }
  return ReadFormat(node, kWeight, format);
}

absl::Status RecipeReader::ReadInput(const YAML::Node& node, v1::Scheme* scheme) {
  if (node.IsScalar() && node.Scalar() == "none") return absl::OkStatus();
  if (!node.IsMap()) {
    return Error(node.Mark(), "input must be 'none' or a mapping {type: ..., scale: ...}");
  }
  v1::NumericFormat* input = scheme->mutable_input();
  OCTAVO_RETURN_IF_ERROR(ReadFormat(node, kInput, input));
  input->set_dynamic(input->granularity() != v1::PER_TENSOR);
  return absl::OkStatus();
}

absl::Status RecipeReader::ReadSolver(const YAML::Node& node, v1::Solver* solver) {
  auto read_type = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t kind, Word(value, "type", kSolverNames));
    solver->set_kind(kind == 0 ? v1::SOLVER_GPTQ : v1::SOLVER_SPARSEGPT);
    return absl::OkStatus();
  };
  auto read_damping = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const double damping, Decimal(value, "damping", kDampingMax));
    solver->set_damping(damping);
    return absl::OkStatus();
  };
  auto read_order = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t order, Word(value, "order", kOrderNames));
    solver->set_activation_order(order == 1);
    return absl::OkStatus();
  };
  solver->set_damping(kDampingDefault);
  solver->set_activation_order(true);
  const std::array<Key, 3> keys = {Key{"type", true, read_type},
                                   Key{"damping", false, read_damping},
                                   Key{"order", false, read_order}};
  return ReadMap(node, "solver", keys);
}

absl::Status RecipeReader::ReadStorage(const YAML::Node& node, v1::Recipe* recipe) {
  OCTAVO_ASSIGN_OR_RETURN(const size_t storage, Word(node, "storage", kStorageNames));
  recipe->set_storage(storage == 0 ? v1::STORAGE_DENSE : v1::STORAGE_SPARSE_24_BITMASK);
  return absl::OkStatus();
}

absl::Status RecipeReader::ReadSmooth(const YAML::Node& node, v1::Recipe* recipe) {
  auto read_strength = [&](const YAML::Node& number) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const double strength, Decimal(number, "strength", 1));
    recipe->mutable_smooth()->set_strength(strength);
    return absl::OkStatus();
  };
  return ReadMap(node, "smooth", std::array{Key{"strength", true, read_strength}});
}

absl::Status RecipeReader::ReadCache(const YAML::Node& node, v1::Recipe* recipe) {
  if (node.IsScalar() && node.Scalar() == "none") return absl::OkStatus();
  if (!node.IsMap()) {
    return Error(node.Mark(), "kv_cache must be 'none' or a mapping {type: fp8, scale: tensor}");
  }
  return ReadFormat(node, kCache, recipe->mutable_kv_cache());
}

// "natural", "all" or "quota N", as Calibration.expert_quota.
absl::StatusOr<uint32_t> RecipeReader::Coverage(const YAML::Node& node) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, Text(node, "coverage", kNameBytesMax));
  if (text == "natural") return 0;
  if (text == "all") return kExpertQuotaAll;
  constexpr std::string_view kQuota = "quota ";
  if (text.starts_with(kQuota)) {
    uint32_t quota = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + kQuota.size(), end, quota);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == end;
    if (is_number && quota > 0 && quota < kExpertQuotaUnnamed) return quota;
  }
  return Error(node.Mark(), "coverage must be 'natural', 'all' or 'quota N' with N of 1 or more");
}

absl::Status RecipeReader::ReadCalibration(const YAML::Node& node, v1::Calibration* calibration) {
  auto read_observer = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t observer, Word(value, "observer", kObserverNames));
    calibration->set_observer(kObservers[observer]);
    return absl::OkStatus();
  };
  auto read_percentile = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const double percentile, Decimal(value, "percentile", 100));
    calibration->set_percentile(percentile);
    return absl::OkStatus();
  };
  auto read_samples = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const int samples, Number(value, "samples", kSamplesMax));
    calibration->set_samples(static_cast<uint32_t>(samples));
    return absl::OkStatus();
  };
  auto read_length = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const int tokens, Number(value, "sample_length", kSampleLengthMax));
    calibration->set_sample_length(static_cast<uint32_t>(tokens));
    return absl::OkStatus();
  };
  auto read_coverage = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const uint32_t quota, Coverage(value));
    calibration->set_expert_quota(quota);
    return absl::OkStatus();
  };
  auto read_propagate = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t what, Word(value, "propagate", kPropagateNames));
    calibration->set_propagates_source(what == 1);
    return absl::OkStatus();
  };
  calibration->set_expert_quota(kExpertQuotaUnnamed);
  const std::array<Key, 6> keys = {
      Key{"observer", false, read_observer}, Key{"percentile", false, read_percentile},
      Key{"samples", true, read_samples},    Key{"sample_length", true, read_length},
      Key{"coverage", false, read_coverage}, Key{"propagate", false, read_propagate}};
  return ReadMap(node, "calibration", keys);
}

absl::Status RecipeReader::ReadRule(const YAML::Node& node, v1::Rule* rule) {
  v1::Scheme* scheme = rule->mutable_scheme();
  auto read_name = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(*rule->mutable_name_pattern(), Text(value, "name", kPatternBytesMax));
    return absl::OkStatus();
  };
  auto read_algorithm = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t algorithm, Word(value, "algorithm", kAlgorithmNames));
    rule->set_algorithm(algorithm == 0 ? v1::ABSMAX : v1::MSE);
    return absl::OkStatus();
  };
  const std::array<Key, 6> keys = {
      Key{"roles", false, [&](const YAML::Node& value) { return ReadRoles(value, rule); }},
      Key{"name", false, read_name},
      Key{"weight", true,
          [&](const YAML::Node& value) { return ReadWeight(value, scheme->mutable_weight()); }},
      Key{"input", false, [&](const YAML::Node& value) { return ReadInput(value, scheme); }},
      Key{"algorithm", false, read_algorithm},
      Key{"solver", false,
          [&](const YAML::Node& value) { return ReadSolver(value, rule->mutable_solver()); }}};
  OCTAVO_RETURN_IF_ERROR(ReadMap(node, "a rule", keys));
  const bool keep = scheme->weight().type() == v1::NUMERIC_KEEP;
  if (keep && (scheme->has_input() || rule->algorithm() != v1::ALGORITHM_UNSPECIFIED ||
               rule->has_solver())) {
    return Error(node.Mark(), "a rule with 'weight: keep' takes no input, algorithm or solver");
  }
  if (!keep && rule->roles().empty() && rule->name_pattern() == "lm_head") {
    return Error(node.Mark(), "a rule reaches lm_head by its role, not by its name",
                 "Write roles: [lm_head]");
  }
  if (!keep && rule->algorithm() == v1::ALGORITHM_UNSPECIFIED) rule->set_algorithm(v1::ABSMAX);
  return absl::OkStatus();
}

absl::StatusOr<v1::Recipe> RecipeReader::ReadRecipe(const YAML::Node& root) {
  v1::Recipe recipe;
  recipe.set_dialect(std::string(DialectNames().front()));
  RecipePlaces places;
  YAML::Mark calibration_mark;
  auto read_name = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(*recipe.mutable_name(), Text(value, "name", kNameBytesMax));
    constexpr std::string_view kAllowed =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (recipe.name().find_first_not_of(kAllowed) == std::string::npos) return absl::OkStatus();
    return Error(value.Mark(), "name may hold letters, digits, '.', '_' and '-' only");
  };
  auto read_description = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(*recipe.mutable_description(),
                            Text(value, "description", kDescriptionBytesMax));
    return absl::OkStatus();
  };
  auto read_dialect = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t dialect, Word(value, "dialect", DialectNames()));
    recipe.set_dialect(std::string(DialectNames()[dialect]));
    return absl::OkStatus();
  };
  auto read_rules = [&](const YAML::Node& value) -> absl::Status {
    if (!value.IsSequence() || value.size() == 0 || value.size() > kRulesMax) {
      return Error(value.Mark(), fmt::format("rules must be a list of 1 to {} rules", kRulesMax));
    }
    for (const YAML::Node& item : value) {
      places.rules.push_back(Place(item.Mark()));
      OCTAVO_RETURN_IF_ERROR(ReadRule(item, recipe.add_rules()));
    }
    return absl::OkStatus();
  };
  auto read_cache = [&](const YAML::Node& value) -> absl::Status {
    places.kv_cache = Place(value.Mark());
    return ReadCache(value, &recipe);
  };
  auto read_calibration = [&](const YAML::Node& value) -> absl::Status {
    calibration_mark = value.Mark();
    places.calibration = Place(calibration_mark);
    return ReadCalibration(value, recipe.mutable_calibration());
  };
  auto read_compat = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const size_t mode, Word(value, "compat", CompatNames()));
    recipe.set_compat(FindCompatMode(CompatNames()[mode])->compat);
    return absl::OkStatus();
  };
  const std::array<Key, 9> keys = {
      Key{"name", true, read_name},
      Key{"description", false, read_description},
      Key{"dialect", false, read_dialect},
      Key{"compat", false, read_compat},
      Key{"rules", true, read_rules},
      Key{"storage", false, [&](const YAML::Node& value) { return ReadStorage(value, &recipe); }},
      Key{"smooth", false, [&](const YAML::Node& value) { return ReadSmooth(value, &recipe); }},
      Key{"kv_cache", false, read_cache},
      Key{"calibration", false, read_calibration}};
  OCTAVO_RETURN_IF_ERROR(ReadMap(root, "a recipe", keys));
  if (recipe.has_calibration() && recipe.calibration().observer() == v1::OBSERVER_UNSPECIFIED) {
    if (HasStaticScale(recipe)) {
      return Error(calibration_mark, "calibration lacks the key 'observer'");
    }
    recipe.mutable_calibration()->set_observer(v1::OBSERVER_ABSMAX);  // looks at nothing
  }
  ApplyCompat(&recipe);  // only now: compat and the dialect may stand below the rules
  OCTAVO_RETURN_IF_ERROR(CheckRecipe(recipe, places));
  return recipe;
}

}  // namespace

absl::StatusOr<v1::Recipe> ParseRecipe(std::string_view yaml, std::string_view file_name) {
  RecipeReader reader(file_name);
  if (yaml.size() > kRecipeBytesMax) {
    return reader.Error(YAML::Mark::null_mark(),
                        fmt::format("a recipe has at most {} bytes", kRecipeBytesMax));
  }
  // yaml-cpp throws on bad syntax, and so does ShapeCheck; nothing leaves this function.
  try {
    if (!IsOneDocument(std::string(yaml))) {
      return reader.Error(YAML::Mark::null_mark(), "a recipe is exactly one YAML document");
    }
    return reader.ReadRecipe(YAML::Load(std::string(yaml)));
  } catch (const YAML::Exception& e) {
    return reader.Error(e.mark, fmt::format("not YAML: {}", e.msg));
  }
}

}  // namespace octavo
