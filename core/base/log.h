#pragma once

// Logging goes to standard error through spdlog: `spdlog::info("...{}", x)` anywhere below main.

#include <string_view>

#include "absl/status/status.h"
#include "spdlog/spdlog.h"  // IWYU pragma: export

namespace octavo {

// Sets level ("trace" .. "error", "off") and the program name shown in every line. Call once, in
// main.
absl::Status InitLogging(std::string_view program, std::string_view level);

}  // namespace octavo
