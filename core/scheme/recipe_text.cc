// Recipes as text: YAML that ParseRecipe reads again, and words for people.

#include <string>
#include <vector>

#include "core/scheme/compat.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

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
  switch (granularity) {
    case v1::PER_TENSOR:
      return "tensor";
    case v1::PER_CHANNEL:
      return "channel";
    case v1::PER_BLOCK:
      return "block";
    case v1::PER_TOKEN:
      return "token";
    case v1::PER_GROUP:
      return "group";
    default:
      return "unknown";
  }
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

std::string SolverYaml(const v1::Solver& solver) {
  return fmt::format("{{type: {}, damping: {}, order: {}}}", SolverName(solver.kind()),
                     solver.damping(), solver.activation_order() ? "activation" : "natural");
}

std::string CoverageText(const v1::Calibration& calibration) {
  if (calibration.expert_quota() == 0) return "natural";
  if (calibration.expert_quota() == kExpertQuotaAll) return "all";
  return fmt::format("quota {}", calibration.expert_quota());
}

std::string CalibrationYaml(const v1::Calibration& calibration) {
  std::string observer = ObserverName(calibration.observer());
  if (calibration.observer() == v1::OBSERVER_PERCENTILE) {
    observer += fmt::format(", percentile: {}", calibration.percentile());
  }
  std::string coverage;
  if (calibration.expert_quota() != kExpertQuotaUnnamed) {
    coverage = ", coverage: " + CoverageText(calibration);
  }
  return fmt::format("{{observer: {}, samples: {}, sample_length: {}{}{}}}", observer,
                     calibration.samples(), calibration.sample_length(), coverage,
                     calibration.propagates_source() ? ", propagate: source" : "");
}

std::string_view TypeText(v1::NumericType type) {
  switch (type) {
    case v1::NUMERIC_FP8_E4M3:
      return "FP8";
    case v1::NUMERIC_INT8:
      return "INT8";
    default:
      return "kept";
  }
}

std::string FormatText(const v1::NumericFormat& format) {
  switch (format.granularity()) {
    case v1::PER_TENSOR:
      return fmt::format("{} tensor", TypeText(format.type()));
    case v1::PER_CHANNEL:
      return fmt::format("{} channel", TypeText(format.type()));
    case v1::PER_BLOCK:
      return fmt::format("{} block {}x{}", TypeText(format.type()), format.block_rows(),
                         format.block_columns());
    case v1::PER_TOKEN:
      return fmt::format("{} token", TypeText(format.type()));
    case v1::PER_GROUP:
      return fmt::format("{} group {}", TypeText(format.type()), format.block_columns());
    default:
      return std::string(TypeText(format.type()));
  }
}

}  // namespace

std::string RecipeYaml(const v1::Recipe& recipe) {
  std::string out = fmt::format("name: {}\n", Quoted(recipe.name()));
  if (!recipe.description().empty()) {
    out += fmt::format("description: {}\n", Quoted(recipe.description()));
  }
  out += fmt::format("dialect: {}\n", recipe.dialect());
  if (recipe.compat() != v1::COMPAT_NONE) {
    out += fmt::format("compat: {}\n", CompatModeOf(recipe.compat()).name);
  }
  out += "rules:\n";
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
    if (rule.has_solver()) line("solver", SolverYaml(rule.solver()));
  }
  if (recipe.storage() != v1::STORAGE_DENSE) {
    out += fmt::format("storage: {}\n", StorageName(recipe.storage()));
  }
  if (recipe.has_smooth()) {
    out += fmt::format("smooth: {{strength: {}}}\n", recipe.smooth().strength());
  }
  if (recipe.has_kv_cache()) out += fmt::format("kv_cache: {}\n", FormatYaml(recipe.kv_cache()));
  if (recipe.has_calibration()) {
    out += fmt::format("calibration: {}\n", CalibrationYaml(recipe.calibration()));
  }
  return out;
}

std::string RoleName(v1::TensorRole role) {
  std::string name = v1::TensorRole_Name(role);
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return name;
}

std::string_view StorageName(v1::WeightStorage storage) {
  return storage == v1::STORAGE_SPARSE_24_BITMASK ? "sparse-24-bitmask" : "dense";
}

std::string SolverName(v1::SolverKind kind) {
  return kind == v1::SOLVER_SPARSEGPT ? "sparsegpt" : "gptq";
}

std::string ObserverName(v1::Observer observer) {
  switch (observer) {
    case v1::OBSERVER_PERCENTILE:
      return "percentile";
    case v1::OBSERVER_MSE:
      return "mse";
    default:
      return "absmax";
  }
}

std::string SchemeText(const v1::Scheme& scheme) {
  if (!scheme.has_input()) return FormatText(scheme.weight()) + " weights only";
  return fmt::format("{} / {} {}", FormatText(scheme.weight()), FormatText(scheme.input()),
                     scheme.input().dynamic() ? "dynamic" : "static");
}

}  // namespace octavo
