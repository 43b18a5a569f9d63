#pragma once

// From tokens to a tree, by Jinja's grammar and precedence. What is not handled is refused here, by
// name and line: unknown tags, filters, tests and globals, template inheritance, methods of Python
// that are left out, reserved attributes.

#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/jinja/ast.h"

namespace octavo::jinja {

// Resolving names takes time in proportion to both. Real templates have some hundred of either.
inline constexpr size_t kTemplateNamesMax = 500;  // different words in tags
inline constexpr int kTemplateStatementsMax = 5000;

// The whole template, names resolved. Errors: kUnsupported, "line N: ...".
absl::StatusOr<Program> ParseProgram(std::string_view source);

}  // namespace octavo::jinja
