// Any bytes as a recipe: a typed error, or a recipe that survives being written and read again.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto recipe = octavo::ParseRecipe(text, "r.yaml");
  if (!recipe.ok()) {
    const octavo::Reason reason = octavo::ReasonOf(recipe.status());
    OCTAVO_CHECK(reason == octavo::Reason::kBadRecipe || reason == octavo::Reason::kUnsupported);
    return 0;
  }
  const auto again = octavo::ParseRecipe(octavo::RecipeYaml(*recipe), "again.yaml");
  OCTAVO_CHECK(again.ok());
  OCTAVO_CHECK(again->SerializeAsString() == recipe->SerializeAsString());
  return 0;
}
