#include "cli/recipe_source.h"

#include <vector>

#include "CLI/CLI.hpp"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/compat.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {

namespace {

absl::StatusOr<v1::Recipe> ReadRecipe(const std::string& recipe) {
  constexpr uint64_t kRecipeBytesMax = 64 << 10;
  const bool file = recipe.find('/') != std::string::npos || recipe.ends_with(".yaml") ||
                    recipe.ends_with(".yml");
  if (!file) return Preset(recipe);
  OCTAVO_ASSIGN_OR_RETURN(const std::string yaml, ReadWhole(LocalStore(), recipe, kRecipeBytesMax));
  return ParseRecipe(yaml, recipe);
}

}  // namespace

void AddCompatFlag(CLI::App& command, std::string& compat) {
  const auto names = CompatNames();
  command
      .add_option("--compat", compat,
                  "Make the bytes that this tool makes (absent: as the recipe says)")
      ->check(CLI::IsMember(std::vector<std::string>(names.begin(), names.end())));
}

absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& recipe, const std::string& compat) {
  OCTAVO_ASSIGN_OR_RETURN(v1::Recipe loaded, ReadRecipe(recipe));
  if (compat.empty()) return loaded;
  const CompatMode* mode = FindCompatMode(compat);
  if (mode == nullptr) {
    return MakeError(Reason::kUsage, fmt::format("no compatibility mode is called '{}'", compat),
                     {}, fmt::format("Modes: {}", fmt::join(CompatNames(), ", ")));
  }
  loaded.set_compat(mode->compat);
  ApplyCompat(&loaded);
  OCTAVO_RETURN_IF_ERROR(CheckRecipe(loaded));
  return loaded;
}

}  // namespace octavo
