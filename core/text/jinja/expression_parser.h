#pragma once

// The expressions of a template, by descent through the levels of precedence.

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/jinja/ast.h"
#include "core/text/jinja/token_stream.h"

namespace octavo::jinja {

using ParsedExpr = absl::StatusOr<ExprPtr>;

class ExpressionParser {
 public:
  // REQUIRES: `tokens` outlives it.
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  // One expression; without `conditional`, "if" ends it.
  ParsedExpr Parse(bool conditional = true);
  // One expression, or a tuple of several without parentheses.
  ParsedExpr ParseTuple(bool conditional = true);
  // The filters after a set or filter block: `subject`, and "|name(...)" as often as it comes. With
  // `bare`, the first comes without its bar.
  ParsedExpr ParseFilters(ExprPtr subject, bool bare);
  // The left side of an assignment. `attributes`: whether ns.name is one.
  absl::StatusOr<Target> ParseTarget(bool attributes);

 private:
  ParsedExpr ParseOr();
  ParsedExpr ParseAnd();
  ParsedExpr ParseNot();
  ParsedExpr ParseComparison();
  ParsedExpr ParseSum();
  ParsedExpr ParseConcat();
  ParsedExpr ParseProduct();
  ParsedExpr ParsePower();
  ParsedExpr ParseUnary(bool filters = true);
  ParsedExpr ParsePrimary();
  ParsedExpr ParseParentheses();
  ParsedExpr ParseList();
  ParsedExpr ParseDict();
  // .name, [index] and (arguments), as often as they come.
  ParsedExpr ParsePostfix(ExprPtr expr);
  ParsedExpr ParseFiltersAndTests(ExprPtr expr);
  ParsedExpr ParseAttribute(ExprPtr object);
  ParsedExpr ParseBrackets(ExprPtr object);
  // What follows "[" or "[start": the slice up to its bracket.
  ParsedExpr ParseSlice(int line, ExprPtr object, ExprPtr start);
  ParsedExpr ParseCall(ExprPtr callee);
  ParsedExpr ParseTest(ExprPtr subject);
  absl::StatusOr<CallArguments> ParseArguments();
  absl::StatusOr<Target> ParseOneTarget(bool attributes);

  TokenStream& tokens_;
  int nesting_ = 0;
};

// Builds a node. Errors: kUnsupported for a tree higher than kExpressionNestingMax.
absl::StatusOr<ExprPtr> MakeExpr(int line, decltype(Expr::node) node);

}  // namespace octavo::jinja
