#pragma once

// Values as text: str(), repr(), json.dumps(), and the % of strings.

#include <string>

#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

// As {{ value }} prints it. Errors: what Python prints with an address (a generator, a macro).
absl::StatusOr<std::string> ToText(const Value& value, Budget& budget);
// As it stands in the text of a list: strings with quotes.
absl::StatusOr<std::string> ToRepr(const Value& value, Budget& budget);

// The shortest digits that give the same double, in Python's layout: 1.0, 1e+16, 0.0001, inf.
std::string FloatText(double number);

struct JsonOptions {
  bool ascii_only = false;
  std::optional<std::string> indent;  // per level; then items stand on lines of their own
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
// json.dumps(), which `transformers` puts in the place of Jinja's tojson: nothing is escaped for
// HTML. Errors: undefined, a generator and whatever else JSON has no form for.
absl::StatusOr<std::string> ToJson(const Value& value, const JsonOptions& options, Budget& budget);

// `format` % `arguments`, of which a tuple counts one by one and a dict by name. Conversions s, r,
// d, i, u, x, X, o, e, E, f, F, g, G, c and %, with flags, width and precision.
absl::StatusOr<std::string> FormatPercent(std::string_view format, const Value& arguments,
                                          Budget& budget);

// & < > " ' as HTML entities, as Markup.escape has them.
std::string EscapeHtml(std::string_view text);

}  // namespace octavo::jinja
