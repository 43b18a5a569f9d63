// Any bytes as a recipe: reading must end in a recipe or a typed error that names the file, and a
// recipe that is read must print as YAML that reads back the same.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto recipe = octavo::ParseRecipe(text, "fuzz.yaml");
  if (!recipe.ok()) {
    OCTAVO_CHECK(octavo::ReasonOf(recipe.status()) == octavo::Reason::kBadRecipe);
    OCTAVO_CHECK(std::string(recipe.status().message()).starts_with("fuzz.yaml"));
    return 0;
  }
  const auto again = octavo::ParseRecipe(octavo::RecipeYaml(*recipe), "again.yaml");
  OCTAVO_CHECK(again.ok());
  OCTAVO_CHECK(again->SerializeAsString() == recipe->SerializeAsString());
  return 0;
}
