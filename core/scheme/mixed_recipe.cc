#include "core/scheme/mixed_recipe.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Indices, the most error per byte first.
std::vector<size_t> ByWorth(std::span<const KeepChoice> choices) {
  std::vector<size_t> order(choices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return choices[a].error * static_cast<double>(choices[b].bytes) >
           choices[b].error * static_cast<double>(choices[a].bytes);
  });
  return order;
}

v1::Rule KeepRule(const std::set<int>& roles, std::string pattern) {
  v1::Rule rule;
  for (const int role : roles) rule.add_roles(static_cast<v1::TensorRole>(role));
  rule.set_name_pattern(std::move(pattern));
  rule.mutable_scheme()->mutable_weight()->set_type(v1::NUMERIC_KEEP);
  return rule;
}

// "model.layers.3.*" of a tensor of layer 3.
std::string PatternOf(const v1::ModelTensor& tensor) {
  const std::string number = fmt::format(".{}.", tensor.layer());
  const std::string_view module = ModuleName(tensor.spec().name());
  const size_t at = module.find(number);
  if (at == std::string_view::npos) return std::string(module);
  return std::string(module.substr(0, at)) + number + "*";
}

// What a recipe quantizes of a role in a layer, and how much of it is kept.
struct KeepTally {
  size_t quantized = 0;
  size_t kept = 0;
  bool all() const { return kept == quantized; }
};

}  // namespace

std::vector<bool> KeepForError(std::span<const KeepChoice> choices, double budget) {
  std::vector<bool> kept(choices.size(), false);
  const auto left = [&] {
    double sum = 0;
    for (size_t i = 0; i < choices.size(); ++i) sum += kept[i] ? 0 : choices[i].error;
    return sum;
  };
  const std::vector<size_t> order = ByWorth(choices);
  size_t count = 0;
  for (; count < order.size() && left() > budget; ++count) kept[order[count]] = true;
  for (size_t i = count; i > 0; --i) {
    kept[order[i - 1]] = false;
    if (left() > budget) kept[order[i - 1]] = true;
  }
  return kept;
}

std::vector<bool> KeepForBytes(std::span<const KeepChoice> choices, uint64_t spare) {
  std::vector<bool> kept(choices.size(), false);
  for (const size_t i : ByWorth(choices)) {
    if (choices[i].error <= 0 || choices[i].bytes > spare) continue;
    kept[i] = true;
    spare -= choices[i].bytes;
  }
  return kept;
}

absl::StatusOr<v1::Recipe> KeepInRecipe(const v1::Recipe& recipe,
                                        std::span<const v1::ModelTensor> tensors,
                                        const std::set<std::string>& kept) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<TensorScheme> schemes, ResolveSchemes(recipe, tensors));
  std::map<int, KeepTally> roles;
  std::map<std::string, std::map<int, KeepTally>> layers;  // by pattern
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (schemes[i].scheme == nullptr) continue;
    const int role = RoleInRules(tensors[i].role());
    const size_t is_kept = kept.contains(tensors[i].spec().name()) ? 1 : 0;
    for (KeepTally* tally : {&roles[role], &layers[PatternOf(tensors[i])][role]}) {
      ++tally->quantized;
      tally->kept += is_kept;
    }
  }
  v1::Recipe mixed = recipe;
  mixed.clear_rules();
  std::set<int> everywhere;
  for (const auto& [role, tally] : roles) {
    if (tally.all()) everywhere.insert(role);
  }
  if (!everywhere.empty()) *mixed.add_rules() = KeepRule(everywhere, "");
  for (const auto& [pattern, in_layer] : layers) {
    std::set<int> own;
    for (const auto& [role, tally] : in_layer) {
      if (tally.all() && !everywhere.contains(role)) own.insert(role);
    }
    if (own.empty()) continue;
    *mixed.add_rules() = KeepRule(own.size() == in_layer.size() ? std::set<int>() : own, pattern);
  }
  mixed.mutable_rules()->MergeFrom(recipe.rules());
  // Patterns are the only guess in all this.
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<TensorScheme> now, ResolveSchemes(mixed, tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].spec().name();
    const bool keeps = schemes[i].scheme == nullptr || kept.contains(name);
    if (keeps == (now[i].scheme == nullptr)) continue;
    return MakeError(Reason::kBadRecipe, "no rule by role and layer keeps just this",
                     {.tensor = name});
  }
  return mixed;
}

}  // namespace octavo
