#pragma once

// Recipes for a budget: which of the linear layers that a recipe quantizes stay as they are
// instead, and the recipe that says so.

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// Tensors that are quantized or kept together.
struct KeepChoice {
  double error = 0;                       // that is gone where they are kept
  uint64_t bytes = 0;                     // more that they take then
  std::vector<std::string> tensors = {};  // in the source
};

// What to keep, by index of `choices`, greedily by error per byte, ties in the order given.
//
// So that the errors of the others add up to at most `budget`. What turns out not to be needed for
// that is given back, the last kept first.
std::vector<bool> KeepForError(std::span<const KeepChoice> choices, double budget);
// So that all that is kept takes at most `spare` bytes more; what does not fit is passed over.
std::vector<bool> KeepForBytes(std::span<const KeepChoice> choices, uint64_t spare);

// `recipe` with rules in front of its own that keep `kept`, tensors that it quantizes, and nothing
// else: one rule for roles that are kept in all layers, and at most one for a layer. kBadRecipe
// where servers fuse a kept layer with one that is not, or no rules say just this.
absl::StatusOr<v1::Recipe> KeepInRecipe(const v1::Recipe& recipe,
                                        std::span<const v1::ModelTensor> tensors,
                                        const std::set<std::string>& kept);

}  // namespace octavo
