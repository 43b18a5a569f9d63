#pragma once

// Control flow over absl::Status, and checks for our own bugs. Three of the project's four macros
// live here (the fourth is OCTAVO_GUARDED_BY in mutex.h).

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo::internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);
}  // namespace octavo::internal

// Returns from the enclosing function if `expr` (an absl::Status) is not OK.
#define OCTAVO_RETURN_IF_ERROR(expr)                                  \
  do {                                                                \
    if (absl::Status octavo_status_ = (expr); !octavo_status_.ok()) { \
      return octavo_status_;                                          \
    }                                                                 \
  } while (false)

// OCTAVO_ASSIGN_OR_RETURN(auto x, F()): unwraps a StatusOr or returns its status. Not usable twice
// on one line.
#define OCTAVO_ASSIGN_OR_RETURN(lhs, expr) OCTAVO_ASSIGN_OR_RETURN_IMPL_(lhs, expr, __LINE__)
#define OCTAVO_ASSIGN_OR_RETURN_IMPL_(lhs, expr, line) \
  OCTAVO_ASSIGN_OR_RETURN_IMPL2_(lhs, expr, line)
#define OCTAVO_ASSIGN_OR_RETURN_IMPL2_(lhs, expr, line) \
  auto octavo_result_##line = (expr);                   \
  if (!octavo_result_##line.ok()) {                     \
    return octavo_result_##line.status();               \
  }                                                     \
  lhs = *std::move(octavo_result_##line)

// Aborts with file and line if our own code broke a promise. Never for user input.
#define OCTAVO_CHECK(condition)                                        \
  do {                                                                 \
    if (!(condition)) {                                                \
      ::octavo::internal::CheckFailed(__FILE__, __LINE__, #condition); \
    }                                                                  \
  } while (false)
