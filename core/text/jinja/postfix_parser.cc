// What follows an operand: attributes, items, calls, filters and tests.

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "core/text/jinja/expression_parser.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

// A filter or test named in the arguments of map, select and their kin, if it stands there as text.
absl::Status CheckNamed(std::string_view filter, const CallArguments& arguments, int line) {
  const bool by_attribute = filter == "selectattr" || filter == "rejectattr";
  const bool chooses = by_attribute || filter == "select" || filter == "reject";
  if (!chooses && filter != "map") return absl::OkStatus();
  const size_t at = by_attribute ? 1 : 0;
  if (arguments.positional.size() <= at) return absl::OkStatus();
  const auto* literal = std::get_if<Literal>(&arguments.positional[at]->node);
  if (literal == nullptr || !literal->value.IsString()) return absl::OkStatus();
  const std::string& name = literal->value.text();
  if (chooses ? FindTest(name) != nullptr : FindFilter(name) != nullptr) return absl::OkStatus();
  return SyntaxError(line,
                     fmt::format("the {} '{}' is not handled", chooses ? "test" : "filter", name));
}

int HeightOf(const ExprPtr& expr) { return expr == nullptr ? 0 : expr->height; }

int HeightOf(const std::vector<ExprPtr>& exprs) {
  int height = 0;
  for (const ExprPtr& expr : exprs) height = std::max(height, HeightOf(expr));
  return height;
}

int HeightOf(const CallArguments& arguments) {
  int height = std::max(
      {HeightOf(arguments.positional), HeightOf(arguments.star), HeightOf(arguments.star_star)});
  for (const auto& [name, value] : arguments.named) height = std::max(height, HeightOf(value));
  return height;
}

// Of the highest child.
struct Heights {
  int operator()(const Literal&) const { return 0; }
  int operator()(const Name&) const { return 0; }
  int operator()(const BlockText&) const { return 0; }
  int operator()(const Unary& node) const { return HeightOf(node.operand); }
  int operator()(const Binary& node) const {
    return std::max(HeightOf(node.left), HeightOf(node.right));
  }
  int operator()(const Logical& node) const {
    return std::max(HeightOf(node.left), HeightOf(node.right));
  }
  int operator()(const Concat& node) const { return HeightOf(node.parts); }
  int operator()(const Compare& node) const {
    int height = HeightOf(node.first);
    for (const auto& [op, right] : node.rest) height = std::max(height, HeightOf(right));
    return height;
  }
  int operator()(const Conditional& node) const {
    return std::max({HeightOf(node.test), HeightOf(node.then), HeightOf(node.otherwise)});
  }
  int operator()(const AttributeOf& node) const { return HeightOf(node.object); }
  int operator()(const ItemOf& node) const {
    return std::max(HeightOf(node.object), HeightOf(node.index));
  }
  int operator()(const SliceOf& node) const {
    return std::max(
        {HeightOf(node.object), HeightOf(node.start), HeightOf(node.stop), HeightOf(node.step)});
  }
  int operator()(const ListOf& node) const { return HeightOf(node.items); }
  int operator()(const DictOf& node) const {
    int height = 0;
    for (const auto& [key, value] : node.entries) {
      height = std::max({height, HeightOf(key), HeightOf(value)});
    }
    return height;
  }
  int operator()(const Call& node) const {
    return std::max(HeightOf(node.callee), HeightOf(node.arguments));
  }
  int operator()(const Apply& node) const {
    return std::max(HeightOf(node.subject), HeightOf(node.arguments));
  }
};

}  // namespace

absl::StatusOr<ExprPtr> MakeExpr(int line, decltype(Expr::node) node) {
  const int height = std::visit(Heights(), node) + 1;
  if (height > kExpressionNestingMax) {
    return SyntaxError(line, "an expression nested too deeply");
  }
  return std::make_unique<Expr>(Expr{.line = line, .node = std::move(node), .height = height});
}

ParsedExpr ExpressionParser::ParsePostfix(ExprPtr expr) {
  while (true) {
    if (tokens_.IsOperator(".")) {
      OCTAVO_ASSIGN_OR_RETURN(expr, ParseAttribute(std::move(expr)));
    } else if (tokens_.IsOperator("[")) {
      OCTAVO_ASSIGN_OR_RETURN(expr, ParseBrackets(std::move(expr)));
    } else if (tokens_.IsOperator("(")) {
      OCTAVO_ASSIGN_OR_RETURN(expr, ParseCall(std::move(expr)));
    } else {
      return expr;
    }
  }
}

ParsedExpr ExpressionParser::ParseFiltersAndTests(ExprPtr expr) {
  while (true) {
    if (tokens_.IsOperator("|")) {
      OCTAVO_ASSIGN_OR_RETURN(expr, ParseFilters(std::move(expr), false));
    } else if (tokens_.IsName("is")) {
      OCTAVO_ASSIGN_OR_RETURN(expr, ParseTest(std::move(expr)));
    } else if (tokens_.IsOperator("(")) {
      OCTAVO_ASSIGN_OR_RETURN(expr, ParseCall(std::move(expr)));
    } else {
      return expr;
    }
  }
}

ParsedExpr ExpressionParser::ParseAttribute(ExprPtr object) {
  const int line = tokens_.Take().line;
  const Token token = tokens_.Take();
  if (token.kind == TokenKind::kNumber && token.number.As<int64_t>() != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr index, MakeExpr(line, Literal{token.number}));
    return MakeExpr(line, ItemOf{std::move(object), std::move(index)});
  }
  if (token.kind != TokenKind::kName) return SyntaxError(line, "a name or number is expected");
  if (token.text.starts_with("__")) {
    return SyntaxError(line, fmt::format("the attribute '{}' is not handled", token.text));
  }
  if (tokens_.IsOperator("(") && IsOmittedMethod(token.text)) {
    return SyntaxError(line, fmt::format("the method '{}' is not handled", token.text));
  }
  return MakeExpr(line, AttributeOf{std::move(object), token.text});
}

// [index], [start:stop:step], and [a, b], whose index is a tuple
ParsedExpr ExpressionParser::ParseBrackets(ExprPtr object) {
  const int line = tokens_.Take().line;
  if (tokens_.IsOperator(":")) return ParseSlice(line, std::move(object), nullptr);
  std::vector<ExprPtr> indices;
  while (!tokens_.IsOperator("]")) {
    if (!indices.empty()) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr index, Parse());
    indices.push_back(std::move(index));
    if (indices.size() == 1 && tokens_.IsOperator(":")) {
      return ParseSlice(line, std::move(object), std::move(indices[0]));
    }
  }
  tokens_.Take();
  if (indices.size() == 1) {
    return MakeExpr(line, ItemOf{std::move(object), std::move(indices[0])});
  }
  OCTAVO_ASSIGN_OR_RETURN(ExprPtr tuple,
                          MakeExpr(line, ListOf{SequenceKind::kTuple, std::move(indices)}));
  return MakeExpr(line, ItemOf{std::move(object), std::move(tuple)});
}

ParsedExpr ExpressionParser::ParseSlice(int line, ExprPtr object, ExprPtr start) {
  auto at_end = [&] { return tokens_.IsOperator(":") || tokens_.IsOperator("]"); };
  SliceOf slice{std::move(object), std::move(start), nullptr, nullptr};
  OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
  if (!at_end()) {
    OCTAVO_ASSIGN_OR_RETURN(slice.stop, Parse());
  }
  if (tokens_.SkipOperator(":") && !at_end()) {
    OCTAVO_ASSIGN_OR_RETURN(slice.step, Parse());
  }
  OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator("]"));
  return MakeExpr(line, std::move(slice));
}

ParsedExpr ExpressionParser::ParseCall(ExprPtr callee) {
  const int line = tokens_.line();
  OCTAVO_ASSIGN_OR_RETURN(CallArguments arguments, ParseArguments());
  return MakeExpr(line, Call{std::move(callee), std::move(arguments)});
}

absl::StatusOr<CallArguments> ExpressionParser::ParseArguments() {
  const int line = tokens_.line();
  OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  CallArguments arguments;
  auto wrong = [&] { return SyntaxError(line, "arguments in a wrong order"); };
  for (bool first = true; !tokens_.IsOperator(")"); first = false) {
    if (!first) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (!first && tokens_.IsOperator(")")) break;
    const Token& next = tokens_.next();
    if (tokens_.SkipOperator("*")) {
      if (arguments.star || arguments.star_star) return wrong();
      OCTAVO_ASSIGN_OR_RETURN(arguments.star, Parse());
    } else if (tokens_.SkipOperator("**")) {
      if (arguments.star_star) return wrong();
      OCTAVO_ASSIGN_OR_RETURN(arguments.star_star, Parse());
    } else if (tokens_.Is(TokenKind::kName) && next.kind == TokenKind::kOperator &&
               next.text == "=") {
      if (arguments.star_star) return wrong();
      const std::string name = tokens_.Take().text;
      tokens_.Take();
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr value, Parse());
      for (const auto& [other, unused] : arguments.named) {
        if (other == name) return SyntaxError(line, fmt::format("'{}' is passed twice", name));
      }
      arguments.named.emplace_back(name, std::move(value));
    } else {
      if (arguments.star || arguments.star_star || !arguments.named.empty()) return wrong();
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr value, Parse());
      arguments.positional.push_back(std::move(value));
    }
  }
  tokens_.Take();
  return arguments;
}

ParsedExpr ExpressionParser::ParseFilters(ExprPtr subject, bool bare) {
  while (bare || tokens_.SkipOperator("|")) {
    bare = false;
    const int line = tokens_.line();
    if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("the name of a filter");
    const std::string name = tokens_.Take().text;
    const FunctionEntry* filter = FindFilter(name);
    if (filter == nullptr || tokens_.IsOperator(".")) {
      return SyntaxError(line, fmt::format("the filter '{}' is not handled", name));
    }
    CallArguments arguments;
    if (tokens_.IsOperator("(")) {
      OCTAVO_ASSIGN_OR_RETURN(arguments, ParseArguments());
    }
    OCTAVO_RETURN_IF_ERROR(CheckNamed(name, arguments, line));
    OCTAVO_ASSIGN_OR_RETURN(
        subject, MakeExpr(line, Apply{std::move(subject), filter, true, std::move(arguments)}));
  }
  return subject;
}

ParsedExpr ExpressionParser::ParseTest(ExprPtr subject) {
  const int line = tokens_.Take().line;
  const bool negated = tokens_.SkipName("not");
  if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("the name of a test");
  const std::string name = tokens_.Take().text;
  const FunctionEntry* test = FindTest(name);
  if (test == nullptr || tokens_.IsOperator(".")) {
    return SyntaxError(line, fmt::format("the test '{}' is not handled", name));
  }
  CallArguments arguments;
  const bool operand = tokens_.Is(TokenKind::kName) || tokens_.Is(TokenKind::kString) ||
                       tokens_.Is(TokenKind::kNumber) || tokens_.IsOperator("[") ||
                       tokens_.IsOperator("{");
  const bool ends = tokens_.IsName("else") || tokens_.IsName("or") || tokens_.IsName("and");
  if (tokens_.IsOperator("(")) {
    OCTAVO_ASSIGN_OR_RETURN(arguments, ParseArguments());
  } else if (operand && !ends) {
    if (tokens_.IsName("is")) return SyntaxError(line, "tests cannot be chained with 'is'");
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    OCTAVO_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    arguments.positional.push_back(std::move(argument));
  }
  OCTAVO_ASSIGN_OR_RETURN(
      ExprPtr expr, MakeExpr(line, Apply{std::move(subject), test, false, std::move(arguments)}));
  if (!negated) return expr;
  return MakeExpr(line, Unary{UnaryOp::kNot, std::move(expr)});
}

}  // namespace octavo::jinja
