#pragma once

// The one table of what may be quantized how: (scheme, dialect, dense or experts) -> allowed, or
// the reason why no reader takes it.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// kBadRecipe with the reason if the dialect or its readers cannot express `scheme` with
// `algorithm`. `experts`: the layer is one of many experts. `where` names the rule or tensor in the
// message.
absl::Status CheckLegal(const v1::Scheme& scheme, v1::Algorithm algorithm, std::string_view dialect,
                        bool experts, std::string_view where);

// One line for people if readers are known to refuse a [rows, columns] weight of this scheme; empty
// otherwise. (Block formats: both must be multiples of the block.)
std::string DimensionWarning(const v1::Scheme& scheme, int64_t rows, int64_t columns);

}  // namespace octavo
