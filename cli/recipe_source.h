#pragma once

// What --recipe means: the name of a preset, or the path of a YAML file; and --compat, the tool
// whose bytes are made (core/scheme/compat.h).

#include <string>

#include "absl/status/statusor.h"
#include "octavo/v1/recipe.pb.h"

namespace CLI {
class App;
}

namespace octavo {

void AddCompatFlag(CLI::App& command, std::string& compat);

// A preset's name wins over a file of the same name; anything with a '/' or ending in .yaml or .yml
// is a file. kNotFound lists the presets; kInputMissing and kBadRecipe name the file.
// `compat`, where it is not empty, takes the place of the recipe's own; kUsage and kBadRecipe where
// there is no such mode or the recipe cannot have it.
absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& recipe, const std::string& compat = {});

}  // namespace octavo
