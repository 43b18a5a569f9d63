#include "cli/recipe_source.h"

#include "core/base/status.h"
#include "core/scheme/recipe.h"
#include "core/store/local_store.h"

namespace octavo {

absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& recipe) {
  constexpr uint64_t kRecipeBytesMax = 64 << 10;
  const bool file = recipe.find('/') != std::string::npos || recipe.ends_with(".yaml") ||
                    recipe.ends_with(".yml");
  if (!file) return Preset(recipe);
  OCTAVO_ASSIGN_OR_RETURN(const std::string yaml, ReadWhole(LocalStore(), recipe, kRecipeBytesMax));
  return ParseRecipe(yaml, recipe);
}

}  // namespace octavo
