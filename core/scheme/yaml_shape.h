#pragma once

// Looks at a YAML text as events, before any tree is built of it. Private to core/scheme.

#include <string>

namespace octavo {

// True if `text` holds exactly one document. Throws YAML::ParserException, with the place, for bad
// syntax, for nesting deeper than 8 and for aliases (a tree with aliases may be a loop).
bool IsOneDocument(const std::string& text);

}  // namespace octavo
