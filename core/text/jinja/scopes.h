#pragma once

// Which variable each name of a template means, by Jinja's rules: a loop, a macro, a block and
// "with" are scopes of their own that see the names outside and keep their assignments inside; an
// "if" is none. A name that is assigned in a scope and known outside starts there as a copy; one
// that nobody assigns comes from what the rendering is given, or is a global.

#include "absl/status/status.h"
#include "core/text/jinja/ast.h"

namespace octavo::jinja {

// Fills in the places of all names and what scopes do when they are entered. Errors: kUnsupported
// for an assignment to `loop` in a loop, and for globals that are left out.
absl::Status ResolveNames(Program* program);

}  // namespace octavo::jinja
