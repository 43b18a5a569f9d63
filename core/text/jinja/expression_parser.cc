#include "core/text/jinja/expression_parser.h"

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

// Counts a level of nesting while it lives.
class Level {
 public:
  explicit Level(int* nesting) : nesting_(nesting) { ++*nesting_; }
  ~Level() { --*nesting_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int* nesting_;
};

std::optional<CompareOp> CompareOpOf(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, CompareOp>, 6> kOps = {
      {{"==", CompareOp::kEqual},
       {"!=", CompareOp::kNotEqual},
       {"<", CompareOp::kLess},
       {"<=", CompareOp::kLessOrEqual},
       {">", CompareOp::kGreater},
       {">=", CompareOp::kGreaterOrEqual}}};
  for (const auto& [name, op] : kOps) {
    if (name == text) return op;
  }
  return std::nullopt;
}

}  // namespace

ParsedExpr ExpressionParser::Parse(bool conditional) {
  const Level level(&nesting_);
  if (nesting_ > kExpressionNestingMax) {
    return SyntaxError(tokens_.line(), "an expression nested too deeply");
  }
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr expr, ParseOr());
  while (conditional && tokens_.SkipName("if")) {
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr test, ParseOr());
    ExprPtr otherwise;
    if (tokens_.SkipName("else")) {
      OCTAVO_ASSIGN_OR_RETURN(otherwise, Parse());
    }
    OCTAVO_ASSIGN_OR_RETURN(
        expr, MakeExpr(line, Conditional{std::move(test), std::move(expr), std::move(otherwise)}));
  }
  return expr;
}

ParsedExpr ExpressionParser::ParseTuple(bool conditional) {
  const int line = tokens_.line();
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  auto at_end = [&] {
    return tokens_.Is(TokenKind::kVariableEnd) || tokens_.Is(TokenKind::kBlockEnd) ||
           tokens_.IsOperator(")");
  };
  do {
    if (at_end()) break;
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr item, Parse(conditional));
    items.push_back(std::move(item));
    is_tuple = is_tuple || tokens_.IsOperator(",");
  } while (tokens_.SkipOperator(","));
  if (is_tuple) return MakeExpr(line, ListOf{SequenceKind::kTuple, std::move(items)});
  if (items.empty()) return tokens_.Unexpected("an expression");
  return std::move(items[0]);
}

ParsedExpr ExpressionParser::ParseOr() {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  while (tokens_.SkipName("or")) {
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    OCTAVO_ASSIGN_OR_RETURN(left,
                            MakeExpr(line, Logical{false, std::move(left), std::move(right)}));
  }
  return left;
}

ParsedExpr ExpressionParser::ParseAnd() {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  while (tokens_.SkipName("and")) {
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    OCTAVO_ASSIGN_OR_RETURN(left, MakeExpr(line, Logical{true, std::move(left), std::move(right)}));
  }
  return left;
}

ParsedExpr ExpressionParser::ParseNot() {
  const int line = tokens_.line();
  if (!tokens_.SkipName("not")) return ParseComparison();
  const Level level(&nesting_);
  if (nesting_ > kExpressionNestingMax) {
    return SyntaxError(line, "an expression nested too deeply");
  }
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  return MakeExpr(line, Unary{UnaryOp::kNot, std::move(operand)});
}

ParsedExpr ExpressionParser::ParseComparison() {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
  while (true) {
    std::optional<CompareOp> op;
    if (tokens_.Is(TokenKind::kOperator)) op = CompareOpOf(tokens_.current().text);
    if (tokens_.IsName("in")) op = CompareOp::kIn;
    const Token& next = tokens_.next();
    if (tokens_.IsName("not") && next.kind == TokenKind::kName && next.text == "in") {
      tokens_.Take();
      op = CompareOp::kNotIn;
    }
    if (!op) break;
    tokens_.Take();
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr right, ParseSum());
    rest.emplace_back(*op, std::move(right));
  }
  if (rest.empty()) return first;
  return MakeExpr(line, Compare{std::move(first), std::move(rest)});
}

ParsedExpr ExpressionParser::ParseSum() {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr left, ParseConcat());
  while (tokens_.IsOperator("+") || tokens_.IsOperator("-")) {
    const BinaryOp op = tokens_.Take().text == "+" ? BinaryOp::kAdd : BinaryOp::kSubtract;
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr right, ParseConcat());
    OCTAVO_ASSIGN_OR_RETURN(left, MakeExpr(line, Binary{op, std::move(left), std::move(right)}));
  }
  return left;
}

ParsedExpr ExpressionParser::ParseConcat() {
  const int line = tokens_.line();
  std::vector<ExprPtr> parts;
  do {
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr part, ParseProduct());
    parts.push_back(std::move(part));
  } while (tokens_.SkipOperator("~"));
  if (parts.size() == 1) return std::move(parts[0]);
  return MakeExpr(line, Concat{std::move(parts)});
}

ParsedExpr ExpressionParser::ParseProduct() {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr left, ParsePower());
  while (true) {
    BinaryOp op;
    if (tokens_.IsOperator("*")) {
      op = BinaryOp::kMultiply;
    } else if (tokens_.IsOperator("/")) {
      op = BinaryOp::kDivide;
    } else if (tokens_.IsOperator("//")) {
      op = BinaryOp::kFloorDivide;
    } else if (tokens_.IsOperator("%")) {
      op = BinaryOp::kModulo;
    } else {
      return left;
    }
    tokens_.Take();
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr right, ParsePower());
    OCTAVO_ASSIGN_OR_RETURN(left, MakeExpr(line, Binary{op, std::move(left), std::move(right)}));
  }
}

// To the left, other than in Python.
ParsedExpr ExpressionParser::ParsePower() {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr left, ParseUnary());
  while (tokens_.SkipOperator("**")) {
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr right, ParseUnary());
    OCTAVO_ASSIGN_OR_RETURN(
        left, MakeExpr(line, Binary{BinaryOp::kPower, std::move(left), std::move(right)}));
  }
  return left;
}

// A sign binds less than what follows the operand, but more than its filters.
ParsedExpr ExpressionParser::ParseUnary(bool filters) {
  const int line = tokens_.line();
  const Level level(&nesting_);
  if (nesting_ > kExpressionNestingMax) {
    return SyntaxError(line, "an expression nested too deeply");
  }
  ExprPtr expr;
  if (tokens_.IsOperator("-") || tokens_.IsOperator("+")) {
    const UnaryOp op = tokens_.Take().text == "-" ? UnaryOp::kNegative : UnaryOp::kPositive;
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    OCTAVO_ASSIGN_OR_RETURN(expr, MakeExpr(line, Unary{op, std::move(operand)}));
  } else {
    OCTAVO_ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  OCTAVO_ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  return filters ? ParseFiltersAndTests(std::move(expr)) : std::move(expr);
}

ParsedExpr ExpressionParser::ParsePrimary() {
  const Token token = tokens_.current();
  if (token.kind == TokenKind::kName) {
    tokens_.Take();
    if (token.text == "true" || token.text == "True") {
      return MakeExpr(token.line, Literal{Value::Bool(true)});
    }
    if (token.text == "false" || token.text == "False") {
      return MakeExpr(token.line, Literal{Value::Bool(false)});
    }
    if (token.text == "none" || token.text == "None") {
      return MakeExpr(token.line, Literal{Value::NoneValue()});
    }
    return MakeExpr(token.line, Name{token.text});
  }
  if (token.kind == TokenKind::kString) {  // several in a row are one
    std::string text;
    while (tokens_.Is(TokenKind::kString)) text += tokens_.Take().text;
    return MakeExpr(token.line, Literal{Value::Text(std::move(text))});
  }
  if (token.kind == TokenKind::kNumber) {
    return MakeExpr(token.line, Literal{tokens_.Take().number});
  }
  if (tokens_.IsOperator("(")) return ParseParentheses();
  if (tokens_.IsOperator("[")) return ParseList();
  if (tokens_.IsOperator("{")) return ParseDict();
  return tokens_.Unexpected("an expression");
}

ParsedExpr ExpressionParser::ParseParentheses() {
  const int line = tokens_.Take().line;
  if (tokens_.SkipOperator(")")) return MakeExpr(line, ListOf{SequenceKind::kTuple, {}});
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr inside, ParseTuple());
  OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
  return inside;
}

ParsedExpr ExpressionParser::ParseList() {
  const int line = tokens_.Take().line;
  std::vector<ExprPtr> items;
  while (!tokens_.IsOperator("]")) {
    if (!items.empty()) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (tokens_.IsOperator("]")) break;
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr item, Parse());
    items.push_back(std::move(item));
  }
  tokens_.Take();
  return MakeExpr(line, ListOf{SequenceKind::kList, std::move(items)});
}

ParsedExpr ExpressionParser::ParseDict() {
  const int line = tokens_.Take().line;
  DictOf dict;
  while (!tokens_.IsOperator("}")) {
    if (!dict.entries.empty()) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (tokens_.IsOperator("}")) break;
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr key, Parse());
    OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr value, Parse());
    dict.entries.emplace_back(std::move(key), std::move(value));
  }
  tokens_.Take();
  return MakeExpr(line, std::move(dict));
}

absl::StatusOr<Target> ExpressionParser::ParseOneTarget(bool attributes) {
  if (tokens_.SkipOperator("(")) {
    OCTAVO_ASSIGN_OR_RETURN(Target inside, ParseTarget(attributes));
    OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
    return inside;
  }
  if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("a name to assign to");
  const Token token = tokens_.Take();
  static constexpr std::array<std::string_view, 6> kConstants = {"true",  "True", "false",
                                                                 "False", "none", "None"};
  if (std::find(kConstants.begin(), kConstants.end(), token.text) != kConstants.end()) {
    return SyntaxError(token.line, fmt::format("cannot assign to '{}'", token.text));
  }
  Target target{.line = token.line, .name = {token.text}, .attribute = {}, .several = {}};
  if (attributes && tokens_.SkipOperator(".")) {
    if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("a name");
    target.attribute = tokens_.Take().text;
  }
  return target;
}

absl::StatusOr<Target> ExpressionParser::ParseTarget(bool attributes) {
  const int line = tokens_.line();
  const Level level(&nesting_);
  if (nesting_ > kExpressionNestingMax) {
    return SyntaxError(line, "an assignment nested too deeply");
  }
  std::vector<Target> targets;
  bool several = false;
  do {
    const bool ends = tokens_.Is(TokenKind::kBlockEnd) || tokens_.IsOperator(")");
    if (!targets.empty() && ends) break;
    OCTAVO_ASSIGN_OR_RETURN(Target target, ParseOneTarget(attributes));
    targets.push_back(std::move(target));
    several = several || tokens_.IsOperator(",");
  } while (tokens_.SkipOperator(","));
  if (!several) return std::move(targets[0]);
  return Target{.line = line, .name = {}, .attribute = {}, .several = std::move(targets)};
}

}  // namespace octavo::jinja
