#include "core/scheme/recipe.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/compat.h"
#include "core/scheme/legality.h"
#include "fmt/format.h"

namespace octavo {

v1::TensorRole RoleInRules(v1::TensorRole role) {
  switch (role) {
    case v1::FUSED_QKV:
      return v1::Q_PROJ;  // q, k and v are treated alike in any case
    case v1::STACKED_GATE:
      return v1::EXPERT_GATE;
    case v1::STACKED_UP:
      return v1::EXPERT_UP;
    case v1::STACKED_DOWN:
      return v1::EXPERT_DOWN;
    default:
      return role;
  }
}

namespace {

bool IsExpert(v1::TensorRole role) {
  const v1::TensorRole named = RoleInRules(role);
  return named == v1::EXPERT_GATE || named == v1::EXPERT_UP || named == v1::EXPERT_DOWN;
}

// Layers that servers fuse into one product must be quantized alike: 1 is q/k/v, 2 is gate/up, 3 is
// all experts of a layer. 0 stands alone.
int FusedGroup(v1::TensorRole role) {
  switch (role) {
    case v1::Q_PROJ:
    case v1::K_PROJ:
    case v1::V_PROJ:
      return 1;
    case v1::GATE_PROJ:
    case v1::UP_PROJ:
      return 2;
    default:
      return IsExpert(role) ? 3 : 0;
  }
}

bool RuleMatches(const v1::Rule& rule, v1::TensorRole role, std::string_view module) {
  if (rule.roles_size() == 0 && role == v1::LM_HEAD) return false;  // only by its own name
  if (rule.roles_size() > 0) {
    bool found = false;
    for (const int wanted : rule.roles()) found = found || wanted == RoleInRules(role);
    if (!found) return false;
  }
  return rule.name_pattern().empty() || GlobMatches(rule.name_pattern(), module);
}

// What the first rule that matches says.
TensorScheme SchemeIn(const v1::Recipe& recipe, v1::TensorRole role, std::string_view module) {
  for (const v1::Rule& rule : recipe.rules()) {
    if (!RuleMatches(rule, role, module)) continue;
    if (rule.scheme().weight().type() == v1::NUMERIC_KEEP) break;
    return {&rule.scheme(), rule.algorithm(), rule.has_solver() ? &rule.solver() : nullptr};
  }
  return {};
}

Home HomeOf(v1::TensorRole role) {
  if (role == v1::LM_HEAD) return Home::kHead;
  if (IsStack(role)) return Home::kStack;
  return IsExpert(role) ? Home::kExpert : Home::kDense;
}

bool SameVerdict(const TensorScheme& a, const TensorScheme& b) {
  if (a.scheme == nullptr || b.scheme == nullptr) return a.scheme == b.scheme;
  if (a.scheme->SerializeAsString() != b.scheme->SerializeAsString()) return false;
  if ((a.solver == nullptr) != (b.solver == nullptr)) return false;
  if (a.solver != nullptr && a.solver->SerializeAsString() != b.solver->SerializeAsString()) {
    return false;
  }
  // One joint scale needs one algorithm.
  return a.scheme->weight().granularity() != v1::PER_TENSOR || a.algorithm == b.algorithm;
}

absl::Status CheckFusedGroups(std::span<const v1::ModelTensor> tensors,
                              std::span<const TensorScheme> schemes) {
  std::map<std::tuple<int32_t, int>, size_t> first_of;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int group = FusedGroup(tensors[i].role());
    if (group == 0) continue;
    const auto [first, inserted] = first_of.try_emplace({tensors[i].layer(), group}, i);
    if (inserted || SameVerdict(schemes[first->second], schemes[i])) continue;
    return MakeError(
        Reason::kBadRecipe,
        fmt::format("the recipe treats {} and {} differently, but servers fuse them into one layer",
                    ModuleName(tensors[first->second].spec().name()),
                    ModuleName(tensors[i].spec().name())),
        {}, "Let one rule match q, k and v, or gate and up, or all experts alike");
  }
  return absl::OkStatus();
}

// Quark says the cache as the quantized output of the k and v projections, so that they must be
// quantized layers of their own.
absl::Status CheckCacheOfQuark(std::span<const v1::ModelTensor> tensors,
                               std::span<const TensorScheme> schemes) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::TensorRole role = tensors[i].role();
    const std::string_view module = ModuleName(tensors[i].spec().name());
    if (role == v1::FUSED_QKV) {
      return MakeError(
          Reason::kBadRecipe,
          fmt::format("{}: no reader of the dialect quark knows a cache beside fused q, "
                      "k and v",
                      module),
          {}, "Use the dialect fp8");
    }
    if ((role == v1::K_PROJ || role == v1::V_PROJ) && schemes[i].scheme == nullptr) {
      return MakeError(Reason::kBadRecipe,
                       fmt::format("{}: the dialect quark has a cache only where k and v are "
                                   "quantized, and the recipe keeps them",
                                   module),
                       {}, "Quantize them, or use the dialect fp8");
    }
  }
  return absl::OkStatus();
}

}  // namespace

v1::Recipe RecipeFor(const v1::Recipe& recipe, std::span<const v1::ModelTensor> tensors) {
  v1::Recipe carried_out = recipe;
  carried_out.clear_rules();
  for (const v1::Rule& rule : recipe.rules()) {
    const auto legal = [&](const v1::Rule& one) {
      return CheckLegal(one.scheme(), one.algorithm(), recipe.dialect(), Home::kExpert, "").ok();
    };
    v1::Rule of_experts = rule;
    v1::NumericFormat& input = *of_experts.mutable_scheme()->mutable_input();
    input.set_type(v1::NUMERIC_FP8_E4M3);
    input.set_granularity(v1::PER_TOKEN);
    input.set_dynamic(true);
    if (!rule.scheme().has_input() && !legal(rule) && legal(of_experts)) {
      std::set<v1::TensorRole> experts;
      for (const v1::ModelTensor& tensor : tensors) {
        if (HomeOf(tensor.role()) == Home::kExpert &&
            RuleMatches(rule, tensor.role(), ModuleName(tensor.spec().name()))) {
          experts.insert(tensor.role());
        }
      }
      of_experts.clear_roles();
      for (const v1::TensorRole role : experts) of_experts.add_roles(role);
      if (!experts.empty()) *carried_out.add_rules() = std::move(of_experts);
    }
    *carried_out.add_rules() = rule;
  }
  return carried_out;
}

bool QuantizesHead(const v1::Recipe& recipe) {
  return SchemeIn(recipe, v1::LM_HEAD, "lm_head").scheme != nullptr;
}

absl::StatusOr<std::vector<TensorScheme>> ResolveSchemes(const v1::Recipe& recipe,
                                                         std::span<const v1::ModelTensor> tensors) {
  OCTAVO_RETURN_IF_ERROR(CheckRecipe(recipe));
  std::vector<TensorScheme> schemes(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::ModelTensor& tensor = tensors[i];
    if (!IsQuantizable(tensor.role()) && tensor.role() != v1::LM_HEAD) continue;
    schemes[i] = SchemeIn(recipe, tensor.role(), ModuleName(tensor.spec().name()));
  }
  OCTAVO_RETURN_IF_ERROR(CheckSchemes(recipe, tensors, schemes));
  return schemes;
}

absl::Status CheckSchemes(const v1::Recipe& recipe, std::span<const v1::ModelTensor> tensors,
                          std::span<const TensorScheme> schemes) {
  const v1::Scheme* first = nullptr;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (schemes[i].scheme == nullptr) continue;
    const v1::ModelTensor& tensor = tensors[i];
    const std::string_view module = ModuleName(tensor.spec().name());
    const Home home = HomeOf(tensor.role());
    const v1::Scheme& scheme = *schemes[i].scheme;
    OCTAVO_RETURN_IF_ERROR(
        CheckLegal(scheme, schemes[i].algorithm, recipe.dialect(), home, module));
    if (home == Home::kStack && !CompatModeOf(recipe.compat()).stacks) {
      return MakeError(Reason::kBadRecipe,
                       fmt::format("{}: compat {} knows no experts stacked in one tensor", module,
                                   CompatModeOf(recipe.compat()).name),
                       {}, "Leave out compat");
    }
    if (first == nullptr) first = &scheme;
    OCTAVO_RETURN_IF_ERROR(CheckTogether(*first, scheme, recipe.dialect(), module));
  }
  OCTAVO_RETURN_IF_ERROR(CheckFusedGroups(tensors, schemes));
  if (recipe.dialect() == kQuarkDialect && recipe.has_kv_cache()) {
    return CheckCacheOfQuark(tensors, schemes);
  }
  return absl::OkStatus();
}

bool HasStaticInput(const v1::Scheme& scheme) {
  return scheme.has_input() && !scheme.input().dynamic();
}

bool HasStaticScale(const v1::Recipe& recipe) {
  return recipe.has_kv_cache() ||
         std::any_of(recipe.rules().begin(), recipe.rules().end(),
                     [](const v1::Rule& rule) { return HasStaticInput(rule.scheme()); });
}

bool HasSolver(const v1::Recipe& recipe) {
  return std::any_of(recipe.rules().begin(), recipe.rules().end(),
                     [](const v1::Rule& rule) { return rule.has_solver(); });
}

uint32_t ExpertQuotaDefault(const v1::Recipe& recipe, const v1::ModelSpec& model) {
  constexpr uint32_t kOfScales = 512;
  constexpr int64_t kOfHessiansPerChannel = 4;
  if (!HasSolver(recipe)) return kOfScales;
  const int64_t channels = std::max(model.hidden_size(), model.intermediate_size());
  return static_cast<uint32_t>(
      std::min(kOfHessiansPerChannel * channels, int64_t{kExpertQuotaUnnamed} - 1));
}

bool IsLayerwise(const v1::Recipe& recipe) { return HasSolver(recipe) || recipe.has_smooth(); }

bool IsStack(v1::TensorRole role) { return IsExpert(role) && RoleInRules(role) != role; }

bool IsQuantizable(v1::TensorRole role) {
  switch (RoleInRules(role)) {
    case v1::Q_PROJ:
    case v1::K_PROJ:
    case v1::V_PROJ:
    case v1::O_PROJ:
    case v1::GATE_PROJ:
    case v1::UP_PROJ:
    case v1::DOWN_PROJ:
      return true;
    default:
      return IsExpert(role);
  }
}

std::string_view ModuleName(std::string_view tensor_name) {
  constexpr std::string_view kSuffix = ".weight";
  if (tensor_name.ends_with(kSuffix)) tensor_name.remove_suffix(kSuffix.size());
  return tensor_name;
}

bool GlobMatches(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;  // the last * seen; everything before it is settled
  size_t star_text = 0;                  // where in text that * stops matching
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace octavo
