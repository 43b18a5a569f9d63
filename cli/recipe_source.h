#pragma once

// What --recipe means: the name of a preset, or the path of a YAML file.

#include <string>

#include "absl/status/statusor.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// A preset's name wins over a file of the same name; anything with a '/' or ending in .yaml or .yml
// is a file. kNotFound lists the presets; kInputMissing and kBadRecipe name the file.
absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& recipe);

}  // namespace octavo
