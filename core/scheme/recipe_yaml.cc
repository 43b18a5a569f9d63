#include <array>
#include <charconv>
#include <functional>
#include <set>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "core/scheme/yaml_shape.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "yaml-cpp/yaml.h"

namespace octavo {
namespace {

constexpr size_t kRecipeBytesMax = 64u << 10;
constexpr size_t kRulesMax = 256;
constexpr size_t kPatternBytesMax = 256;
constexpr size_t kNameBytesMax = 64;
constexpr size_t kDescriptionBytesMax = 512;
constexpr int kBlockMax = 1 << 20;

constexpr std::array kRuleRoles = {v1::Q_PROJ,    v1::K_PROJ,     v1::V_PROJ,    v1::O_PROJ,
                                   v1::GATE_PROJ, v1::UP_PROJ,    v1::DOWN_PROJ, v1::EXPERT_GATE,
                                   v1::EXPERT_UP, v1::EXPERT_DOWN};

struct GranularityName {
  std::string_view name;
  v1::Granularity value;
};
constexpr std::array kWeightScales = {GranularityName{"tensor", v1::PER_TENSOR},
                                      GranularityName{"channel", v1::PER_CHANNEL},
                                      GranularityName{"block", v1::PER_BLOCK}};
constexpr std::array kInputScales = {GranularityName{"token", v1::PER_TOKEN},
                                     GranularityName{"group", v1::PER_GROUP}};

// One document, read strictly. Every error names the file and the line of the node it is about.
class Reader {
 public:
  explicit Reader(std::string_view file) : file_(file) {}

  absl::StatusOr<v1::Recipe> ReadRecipe(const YAML::Node& root);

  absl::Status Error(const YAML::Mark& mark, std::string_view what, std::string_view cure = {}) {
    const std::string place = mark.is_null() ? fmt::format("{}: {}", file_, what)
                                             : fmt::format("{}:{}: {}", file_, mark.line + 1, what);
    return MakeError(Reason::kBadRecipe, place, {}, cure);
  }

 private:
  using Field = std::function<absl::Status(const YAML::Node&)>;
  struct Key {
    std::string_view name;
    bool required;
    Field read;
  };

  absl::Status ReadMap(const YAML::Node& node, std::string_view what, std::span<const Key> keys);
  absl::StatusOr<std::string> Text(const YAML::Node& node, std::string_view what, size_t bytes_max);
  absl::StatusOr<int> Number(const YAML::Node& node, std::string_view what);
  absl::Status ReadRule(const YAML::Node& node, v1::Recipe* recipe);
  absl::Status ReadRoles(const YAML::Node& node, v1::Rule* rule);
  absl::Status ReadFormat(const YAML::Node& node, std::string_view what,
                          std::span<const GranularityName> scales, v1::NumericFormat* format);
  absl::Status ReadWeight(const YAML::Node& node, v1::NumericFormat* format);
  absl::Status ReadInput(const YAML::Node& node, v1::Scheme* scheme);

  std::string file_;
};

// Well-formed UTF-8 without control characters: what may go into messages and files unchanged.
bool IsPlainText(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x20 || lead == 0x7f) return false;
    const int extra = lead < 0x80 ? 0 : lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc2 ? 1 : -1;
    if (extra < 0 || lead > 0xf4 || i + extra >= text.size()) return false;
    uint32_t code = extra == 0 ? lead : lead & (0x3f >> extra);
    for (int k = 1; k <= extra; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      code = (code << 6) | (next & 0x3f);
    }
    constexpr std::array<uint32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[extra] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += 1 + extra;
  }
  return true;
}

absl::Status Reader::ReadMap(const YAML::Node& node, std::string_view what,
                             std::span<const Key> keys) {
  if (!node.IsMap()) return Error(node.Mark(), fmt::format("{} must be a mapping", what));
  std::set<std::string_view> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) return Error(entry.first.Mark(), "a key must be a plain word");
    const std::string& name = entry.first.Scalar();
    const Key* found = nullptr;
    std::vector<std::string_view> names;
    for (const Key& key : keys) {
      names.push_back(key.name);
      if (key.name == name) found = &key;
    }
    if (found == nullptr) {
      return Error(entry.first.Mark(), fmt::format("unknown key in {}", what),
                   fmt::format("Known keys: {}", fmt::join(names, ", ")));
    }
    if (!seen.insert(found->name).second) {
      return Error(entry.first.Mark(), fmt::format("key '{}' appears twice", found->name));
    }
    OCTAVO_RETURN_IF_ERROR(found->read(entry.second));
  }
  for (const Key& key : keys) {
    if (key.required && !seen.contains(key.name)) {
      return Error(node.Mark(), fmt::format("{} lacks the key '{}'", what, key.name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Reader::Text(const YAML::Node& node, std::string_view what,
                                         size_t bytes_max) {
  if (!node.IsScalar()) return Error(node.Mark(), fmt::format("{} must be plain text", what));
  const std::string& text = node.Scalar();
  if (text.empty() || text.size() > bytes_max || !IsPlainText(text)) {
    return Error(node.Mark(),
                 fmt::format("{} must be one line of 1 to {} bytes of UTF-8", what, bytes_max));
  }
  return text;
}

absl::StatusOr<int> Reader::Number(const YAML::Node& node, std::string_view what) {
  if (node.IsScalar()) {
    const std::string& text = node.Scalar();
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value > 0 &&
        value <= kBlockMax) {
      return value;
    }
  }
  return Error(node.Mark(), fmt::format("{} must be a whole number above 0", what));
}

absl::Status Reader::ReadRoles(const YAML::Node& node, v1::Rule* rule) {
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

absl::Status Reader::ReadFormat(const YAML::Node& node, std::string_view what,
                                std::span<const GranularityName> scales,
                                v1::NumericFormat* format) {
  auto read_type = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const std::string type, Text(value, "type", kNameBytesMax));
    if (type != "fp8" && type != "int8") {
      return Error(value.Mark(), fmt::format("type '{}' is not known", type), "Types: fp8, int8");
    }
    format->set_type(type == "fp8" ? v1::NUMERIC_FP8_E4M3 : v1::NUMERIC_INT8);
    return absl::OkStatus();
  };
  auto read_scale = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const std::string name, Text(value, "scale", kNameBytesMax));
    std::vector<std::string_view> names;
    for (const GranularityName& scale : scales) {
      names.push_back(scale.name);
      if (scale.name == name) format->set_granularity(scale.value);
    }
    if (format->granularity() != v1::GRANULARITY_UNSPECIFIED) return absl::OkStatus();
    return Error(value.Mark(), fmt::format("'{}' is not a scale of {}", name, what),
                 fmt::format("Scales: {}", fmt::join(names, ", ")));
  };
  auto read_block = [&](const YAML::Node& value) -> absl::Status {
    if (!value.IsSequence() || value.size() != 2) {
      return Error(value.Mark(), "block must be [rows, columns]");
    }
    OCTAVO_ASSIGN_OR_RETURN(const int rows, Number(value[0], "block rows"));
    OCTAVO_ASSIGN_OR_RETURN(const int columns, Number(value[1], "block columns"));
    format->set_block_rows(rows);
    format->set_block_columns(columns);
    return absl::OkStatus();
  };
  auto read_group = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const int columns, Number(value, "group"));
    format->set_block_columns(columns);
    return absl::OkStatus();
  };
  const bool is_weight = what == "weight";
  const std::array<Key, 3> keys = {
      Key{"type", true, read_type}, Key{"scale", true, read_scale},
      is_weight ? Key{"block", false, read_block} : Key{"group", false, read_group}};
  OCTAVO_RETURN_IF_ERROR(ReadMap(node, what, keys));
  const bool needs_size =
      format->granularity() == v1::PER_BLOCK || format->granularity() == v1::PER_GROUP;
  if (needs_size != (format->block_columns() != 0)) {
    return Error(node.Mark(), is_weight ? "'block' goes with scale: block, and only with it"
                                        : "'group' goes with scale: group, and only with it");
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadWeight(const YAML::Node& node, v1::NumericFormat* format) {
  if (node.IsScalar() && node.Scalar() == "keep") {
    format->set_type(v1::NUMERIC_KEEP);
    return absl::OkStatus();
  }
  if (!node.IsMap()) {
    return Error(node.Mark(), "weight must be 'keep' or a mapping {type: ..., scale: ...}");
  }
  return ReadFormat(node, "weight", kWeightScales, format);
}

absl::Status Reader::ReadInput(const YAML::Node& node, v1::Scheme* scheme) {
  if (node.IsScalar() && node.Scalar() == "none") return absl::OkStatus();
  if (!node.IsMap()) {
    return Error(node.Mark(), "input must be 'none' or a mapping {type: ..., scale: ...}");
  }
  scheme->mutable_input()->set_dynamic(true);
  return ReadFormat(node, "input", kInputScales, scheme->mutable_input());
}

absl::Status Reader::ReadRule(const YAML::Node& node, v1::Recipe* recipe) {
  v1::Rule* rule = recipe->add_rules();
  v1::Scheme* scheme = rule->mutable_scheme();
  auto read_name = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(*rule->mutable_name_pattern(), Text(value, "name", kPatternBytesMax));
    return absl::OkStatus();
  };
  auto read_algorithm = [&](const YAML::Node& value) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const std::string name, Text(value, "algorithm", kNameBytesMax));
    if (name != "absmax" && name != "mse") {
      return Error(value.Mark(), fmt::format("algorithm '{}' is not known", name),
                   "Algorithms: absmax, mse");
    }
    rule->set_algorithm(name == "mse" ? v1::MSE : v1::ABSMAX);
    return absl::OkStatus();
  };
  const std::array<Key, 5> keys = {
      Key{"roles", false, [&](const YAML::Node& value) { return ReadRoles(value, rule); }},
      Key{"name", false, read_name},
      Key{"weight", true,
          [&](const YAML::Node& value) { return ReadWeight(value, scheme->mutable_weight()); }},
      Key{"input", false, [&](const YAML::Node& value) { return ReadInput(value, scheme); }},
      Key{"algorithm", false, read_algorithm}};
  OCTAVO_RETURN_IF_ERROR(ReadMap(node, "a rule", keys));
  const bool keep = scheme->weight().type() == v1::NUMERIC_KEEP;
  if (keep && (scheme->has_input() || rule->algorithm() != v1::ALGORITHM_UNSPECIFIED)) {
    return Error(node.Mark(), "a rule with 'weight: keep' takes no input and no algorithm");
  }
  if (!keep && rule->algorithm() == v1::ALGORITHM_UNSPECIFIED) rule->set_algorithm(v1::ABSMAX);
  const std::string where = fmt::format("{}:{}", file_, node.Mark().line + 1);
  return CheckLegal(*scheme, rule->algorithm(), recipe->dialect(), /*experts=*/false, where);
}

absl::StatusOr<v1::Recipe> Reader::ReadRecipe(const YAML::Node& root) {
  v1::Recipe recipe;
  recipe.set_dialect("compressed-tensors");
  YAML::Node rules;
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
    OCTAVO_ASSIGN_OR_RETURN(const std::string dialect, Text(value, "dialect", kNameBytesMax));
    if (dialect == recipe.dialect()) return absl::OkStatus();
    return Error(value.Mark(), fmt::format("dialect '{}' is not known", dialect),
                 "Dialects: compressed-tensors");
  };
  auto read_rules = [&](const YAML::Node& value) -> absl::Status {
    if (!value.IsSequence() || value.size() == 0 || value.size() > kRulesMax) {
      return Error(value.Mark(), fmt::format("rules must be a list of 1 to {} rules", kRulesMax));
    }
    for (const YAML::Node& item : value) OCTAVO_RETURN_IF_ERROR(ReadRule(item, &recipe));
    return absl::OkStatus();
  };
  const std::array<Key, 4> keys = {
      Key{"name", true, read_name}, Key{"description", false, read_description},
      Key{"dialect", false, read_dialect}, Key{"rules", true, read_rules}};
  OCTAVO_RETURN_IF_ERROR(ReadMap(root, "a recipe", keys));
  return recipe;
}

// A double-quoted scalar; the text holds no control characters.
std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string_view ScaleName(v1::Granularity granularity) {
  for (const GranularityName& scale : kWeightScales) {
    if (scale.value == granularity) return scale.name;
  }
  for (const GranularityName& scale : kInputScales) {
    if (scale.value == granularity) return scale.name;
  }
  return "unknown";
}

std::string FormatYaml(const v1::NumericFormat& format) {
  std::string out =
      fmt::format("{{type: {}, scale: {}", format.type() == v1::NUMERIC_INT8 ? "int8" : "fp8",
                  ScaleName(format.granularity()));
  if (format.granularity() == v1::PER_BLOCK) {
    out += fmt::format(", block: [{}, {}]", format.block_rows(), format.block_columns());
  } else if (format.granularity() == v1::PER_GROUP) {
    out += fmt::format(", group: {}", format.block_columns());
  }
  return out + "}";
}

}  // namespace

absl::StatusOr<v1::Recipe> ParseRecipe(std::string_view yaml, std::string_view file_name) {
  Reader reader(file_name);
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

std::string RecipeYaml(const v1::Recipe& recipe) {
  std::string out = fmt::format("name: {}\n", Quoted(recipe.name()));
  if (!recipe.description().empty()) {
    out += fmt::format("description: {}\n", Quoted(recipe.description()));
  }
  out += fmt::format("dialect: {}\nrules:\n", recipe.dialect());
  for (const v1::Rule& rule : recipe.rules()) {
    std::string_view lead = "  - ";
    auto line = [&](std::string_view key, std::string_view value) {
      out += fmt::format("{}{}: {}\n", lead, key, value);
      lead = "    ";
    };
    if (rule.roles_size() > 0) {
      std::vector<std::string> names;
      for (const int role : rule.roles()) {
        names.push_back(RoleName(static_cast<v1::TensorRole>(role)));
      }
      line("roles", fmt::format("[{}]", fmt::join(names, ", ")));
    }
    if (!rule.name_pattern().empty()) line("name", Quoted(rule.name_pattern()));
    if (rule.scheme().weight().type() == v1::NUMERIC_KEEP) {
      line("weight", "keep");
      continue;
    }
    line("weight", FormatYaml(rule.scheme().weight()));
    line("input", rule.scheme().has_input() ? FormatYaml(rule.scheme().input()) : "none");
    line("algorithm", rule.algorithm() == v1::MSE ? "mse" : "absmax");
  }
  return out;
}

}  // namespace octavo
