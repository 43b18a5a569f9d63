#pragma once

// The version of this build: project(octavo VERSION ...), as `--version` and build_info show it.

#include <string_view>

namespace octavo {

inline constexpr std::string_view kVersion = OCTAVO_VERSION;

}  // namespace octavo
