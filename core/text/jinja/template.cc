#include "core/text/jinja/template.h"

#include "core/base/status.h"
#include "core/text/jinja/evaluator.h"
#include "core/text/jinja/lexer.h"
#include "core/text/jinja/parser.h"
#include "core/text/utf8.h"

namespace octavo::jinja {

absl::StatusOr<Template> Template::Parse(std::string_view source) {
  if (!IsUtf8(source)) return SyntaxError(1, "the template is no UTF-8");
  OCTAVO_ASSIGN_OR_RETURN(Program program, ParseProgram(source));
  return Template(std::make_shared<const Program>(std::move(program)));
}

absl::StatusOr<std::string> Template::Render(const nlohmann::ordered_json& variables,
                                             int64_t now_ns) const {
  Budget budget;
  Variables values;
  for (const auto& [name, member] : variables.items()) {
    OCTAVO_ASSIGN_OR_RETURN(Value value, FromJson(member, budget));
    values.emplace_back(name, std::move(value));
  }
  return Evaluator(*program_, values, &budget, now_ns).Run();
}

}  // namespace octavo::jinja
