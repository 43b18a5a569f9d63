#pragma once

// The expressions of a template, by descent through the levels of precedence.

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/jinja/ast.h"
#include "core/text/jinja/token_stream.h"

namespace octavo::jinja {

class ExpressionParser {
 public:
  // REQUIRES: `tokens` outlives it.
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  using Result = absl::StatusOr<ExprPtr>;

  // One expression; without `conditional`, "if" ends it.
  Result Parse(bool conditional = true);
  // One expression, or a tuple of several without parentheses.
  Result ParseTuple(bool conditional = true);
  // The filters after a set or filter block: `subject`, and "|name(...)" as often as it comes. With
  // `bare`, the first comes without its bar.
  Result ParseFilters(ExprPtr subject, bool bare);
  // The left side of an assignment. `attributes`: whether ns.name is one.
  absl::StatusOr<Target> ParseTarget(bool attributes);

 private:
  Result ParseOr();
  Result ParseAnd();
  Result ParseNot();
  Result ParseComparison();
  Result ParseSum();
  Result ParseConcat();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool filters = true);
  Result ParsePrimary();
  Result ParseParentheses();
  Result ParseList();
  Result ParseDict();
  // .name, [index] and (arguments), as often as they come.
  Result ParsePostfix(ExprPtr expr);
  Result ParseFiltersAndTests(ExprPtr expr);
  Result ParseAttribute(ExprPtr object);
  Result ParseBrackets(ExprPtr object);
  // What follows "[" or "[start": the slice up to its bracket.
  Result ParseSlice(int line, ExprPtr object, ExprPtr start);
  Result ParseCall(ExprPtr callee);
  Result ParseTest(ExprPtr subject);
  absl::StatusOr<CallArguments> ParseArguments();
  absl::StatusOr<Target> ParseOneTarget(bool attributes);

  TokenStream& tokens_;
  int nesting_ = 0;
};

// Builds a node. Errors: kUnsupported for a tree higher than kExpressionNestingMax.
absl::StatusOr<ExprPtr> MakeExpr(int line, decltype(Expr::node) node);

}  // namespace octavo::jinja
