#pragma once

// Going through a tree for the names in it.

#include <functional>
#include <string_view>

#include "core/text/jinja/ast.h"

namespace octavo::jinja {

// The names that an expression reads, with their lines.
void ForEachName(Expr& expr, const std::function<void(Name&, int line)>& visit);

// The names that an assignment is to; `attribute` where it is to an attribute of a namespace.
void ForEachTargetName(Target& target, const std::function<void(Name&, bool attribute)>& visit);

// Whether a body reads this name, inner scopes included, before it assigns it in the order of the
// text.
bool LoadsName(Body& body, std::string_view name);

// Whether a loop assigns this name anywhere, its own target included.
bool StoresName(For& loop, std::string_view name);

}  // namespace octavo::jinja
