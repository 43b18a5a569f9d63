#pragma once

// Templates in the language of Jinja, for chat templates: the result is, byte for byte, that of
// Python's jinja2 as `transformers` sets it up (an immutable sandbox, trim_blocks, lstrip_blocks,
// loop controls, a tojson of its own, raise_exception, strftime_now, {% generation %}).
//
// Handled: for (with else, if, recursive, tuples), if, set (also of blocks and of attributes of a
// namespace), macro, call, filter, with, raw, break, continue, print, generation, comments, white
// space control; all operators, slices, inline if, tests, filters, methods of strings, dicts and
// lists, range, dict, namespace. The tables are in filters_*.cc, is_tests.cc, methods_*.cc and
// globals.cc.
//
// Not handled, and refused when the template is parsed: template inheritance and inclusion,
// autoescape, cycler, joiner, lipsum; the filters filesizeformat, forceescape, groupby, pprint,
// random, striptags, urlencode, urlize, wordcount, wordwrap and xmlattr; the tests filter and test;
// str.format and other methods of Python (native.cc). Refused when it happens: integers beyond 64
// bits, what would show an address of Python's, and title(), swapcase(), isdigit(), isalpha() and
// isalnum() of text outside ASCII.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octavo::jinja {

struct Program;  // ast.h

class Template {
 public:
  // Errors: kUnsupported, "line N: ...".
  static absl::StatusOr<Template> Parse(std::string_view source);

  // `variables`: a JSON object, by whose names the template knows its members. `now_ns`: the time
  // that strftime_now shows, since the Unix epoch. Errors: kBadRequest, "line N: ...", for what
  // raise_exception says, for errors of the template's own and for the limits of budget.h.
  // Thread-safe.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables, int64_t now_ns) const;

 private:
  explicit Template(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

  std::shared_ptr<const Program> program_;  // shared by copies
};

}  // namespace octavo::jinja
