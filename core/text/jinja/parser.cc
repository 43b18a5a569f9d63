#include "core/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/container/flat_hash_set.h"
#include "core/base/status.h"
#include "core/text/jinja/expression_parser.h"
#include "core/text/jinja/scopes.h"
#include "core/text/jinja/token_stream.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using EndNames = std::initializer_list<std::string_view>;

class StatementParser {
 public:
  explicit StatementParser(std::vector<Token> tokens)
      : tokens_(std::move(tokens)), expressions_(&tokens_) {}

  absl::StatusOr<Body> ParseAll() {
    OCTAVO_ASSIGN_OR_RETURN(Body body, ParseUntil({}));
    OCTAVO_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kEnd));
    return body;
  }

 private:
  using Result = absl::StatusOr<Statement>;

  // Text and statements up to a tag of one of these names, whose name is then current; to the end
  // without names.
  absl::StatusOr<Body> ParseUntil(EndNames ends) {
    if (++nesting_ > kStatementNestingMax) {
      return SyntaxError(tokens_.line(), "statements nested too deeply");
    }
    Body body;
    while (!tokens_.Is(TokenKind::kEnd)) {
      if (tokens_.Is(TokenKind::kBlockBegin)) {
        const Token& name = tokens_.next();
        if (name.kind == TokenKind::kName &&
            std::find(ends.begin(), ends.end(), name.text) != ends.end()) {
          break;
        }
        tokens_.Take();
        OCTAVO_ASSIGN_OR_RETURN(Statement statement, ParseStatement());
        body.push_back(std::move(statement));
        OCTAVO_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kBlockEnd));
        continue;
      }
      OCTAVO_ASSIGN_OR_RETURN(Statement output, ParseOutput());
      body.push_back(std::move(output));
    }
    --nesting_;
    return body;
  }

  // The body after the head of a block tag. The name of the tag that ends it is then current.
  absl::StatusOr<Body> ParseBlock(EndNames ends) {
    const int line = tokens_.line();
    tokens_.SkipOperator(":");
    OCTAVO_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kBlockEnd));
    OCTAVO_ASSIGN_OR_RETURN(Body body, ParseUntil(ends));
    if (tokens_.Is(TokenKind::kEnd)) {
      return SyntaxError(line, fmt::format("a block without '{}'", *(ends.end() - 1)));
    }
    OCTAVO_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kBlockBegin));
    return body;
  }

  // The same where only one name can end it, which is moved over.
  absl::StatusOr<Body> ParseWholeBlock(std::string_view end) {
    OCTAVO_ASSIGN_OR_RETURN(Body body, ParseBlock({end}));
    OCTAVO_RETURN_IF_ERROR(tokens_.ExpectName(end));
    return body;
  }

  Result ParseOutput() {
    Statement statement{.line = tokens_.line(), .node = Output{}};
    auto& parts = std::get<Output>(statement.node).parts;
    while (tokens_.Is(TokenKind::kData) || tokens_.Is(TokenKind::kVariableBegin)) {
      Token token = tokens_.Take();
      if (token.kind == TokenKind::kData) {
        OCTAVO_ASSIGN_OR_RETURN(ExprPtr text,
                                MakeExpr(token.line, Literal{Value::Text(std::move(token.text))}));
        parts.push_back(std::move(text));
        continue;
      }
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr expr, expressions_.ParseTuple());
      OCTAVO_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kVariableEnd));
      parts.push_back(std::move(expr));
    }
    if (parts.empty()) return tokens_.Unexpected("text or a tag");
    return statement;
  }

  Result ParseStatement() {
    if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("the name of a tag");
    const Token tag = tokens_.Take();
    if (++statements_ > kTemplateStatementsMax) {
      return SyntaxError(tag.line, fmt::format("more than {} statements", kTemplateStatementsMax));
    }
    if (tag.text == "if") return ParseIf(tag.line);
    if (tag.text == "for") return ParseFor(tag.line);
    if (tag.text == "set") return ParseSet(tag.line);
    if (tag.text == "macro") return ParseMacro(tag.line);
    if (tag.text == "call") return ParseCallBlock(tag.line);
    if (tag.text == "filter") return ParseFilterBlock(tag.line);
    if (tag.text == "with") return ParseWith(tag.line);
    if (tag.text == "generation") return ParseGeneration(tag.line);
    if (tag.text == "print") return ParsePrint(tag.line);
    if (tag.text == "break" || tag.text == "continue") {
      if (loops_ == 0) return SyntaxError(tag.line, fmt::format("'{}' outside a loop", tag.text));
      if (tag.text == "break") return Statement{.line = tag.line, .node = Break{}};
      return Statement{.line = tag.line, .node = Continue{}};
    }
    return SyntaxError(tag.line, fmt::format("the tag '{}' is not handled", tag.text));
  }

  Result ParseIf(int line) {
    If node;
    while (true) {
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr test, expressions_.ParseTuple(false));
      OCTAVO_ASSIGN_OR_RETURN(Body body, ParseBlock({"elif", "else", "endif"}));
      node.branches.emplace_back(std::move(test), std::move(body));
      const std::string end = tokens_.Take().text;
      if (end == "elif") continue;
      if (end == "else") {
        OCTAVO_ASSIGN_OR_RETURN(node.otherwise, ParseWholeBlock("endif"));
      }
      return Statement{.line = line, .node = std::move(node)};
    }
  }

  Result ParseFor(int line) {
    For node;
    OCTAVO_ASSIGN_OR_RETURN(node.target, expressions_.ParseTarget(false));
    OCTAVO_RETURN_IF_ERROR(tokens_.ExpectName("in"));
    OCTAVO_ASSIGN_OR_RETURN(node.iterable, expressions_.ParseTuple(false));
    if (tokens_.SkipName("if")) {
      OCTAVO_ASSIGN_OR_RETURN(node.test, expressions_.Parse());
      node.test_target = node.target;
    }
    node.recursive = tokens_.SkipName("recursive");
    ++loops_;
    OCTAVO_ASSIGN_OR_RETURN(node.body, ParseBlock({"else", "endfor"}));
    --loops_;
    if (tokens_.Take().text == "else") {
      OCTAVO_ASSIGN_OR_RETURN(node.otherwise, ParseWholeBlock("endfor"));
    }
    return Statement{.line = line, .node = std::move(node)};
  }

  Result ParseSet(int line) {
    OCTAVO_ASSIGN_OR_RETURN(Target target, expressions_.ParseTarget(true));
    if (tokens_.SkipOperator("=")) {
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr value, expressions_.ParseTuple());
      return Statement{.line = line, .node = Set{std::move(target), std::move(value)}};
    }
    SetBlock node{.target = std::move(target), .value = nullptr, .body = {}};
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr text, MakeExpr(line, BlockText{}));
    OCTAVO_ASSIGN_OR_RETURN(node.value, expressions_.ParseFilters(std::move(text), false));
    OCTAVO_ASSIGN_OR_RETURN(node.body, ParseWholeBlock("endset"));
    return Statement{.line = line, .node = std::move(node)};
  }

  Result ParseFilterBlock(int line) {
    FilterBlock node;
    OCTAVO_ASSIGN_OR_RETURN(ExprPtr text, MakeExpr(line, BlockText{}));
    OCTAVO_ASSIGN_OR_RETURN(node.value, expressions_.ParseFilters(std::move(text), true));
    OCTAVO_ASSIGN_OR_RETURN(node.body, ParseWholeBlock("endfilter"));
    return Statement{.line = line, .node = std::move(node)};
  }

  Result ParseWith(int line) {
    With node;
    while (!tokens_.Is(TokenKind::kBlockEnd) && !tokens_.IsOperator(":")) {
      if (!node.values.empty()) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("a name");
      const Token name = tokens_.Take();
      OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator("="));
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr value, expressions_.Parse());
      Target target{.line = name.line, .name = {name.text}, .attribute = {}, .several = {}};
      node.values.emplace_back(std::move(target), std::move(value));
    }
    OCTAVO_ASSIGN_OR_RETURN(node.body, ParseWholeBlock("endwith"));
    return Statement{.line = line, .node = std::move(node)};
  }

  // (a, b=1)
  absl::Status ParseSignature(MacroBody* macro) {
    OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
    while (!tokens_.IsOperator(")")) {
      if (!macro->parameters.empty()) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("a parameter");
      const Token name = tokens_.Take();
      if (name.text == "caller" || name.text == "kwargs" || name.text == "varargs") {
        return SyntaxError(name.line, fmt::format("'{}' as a parameter is not handled", name.text));
      }
      for (const Name& other : macro->parameters) {
        if (other.name == name.text) {
          return SyntaxError(name.line, fmt::format("the parameter '{}' twice", name.text));
        }
      }
      macro->parameters.push_back({name.text});
      if (tokens_.SkipOperator("=")) {
        OCTAVO_ASSIGN_OR_RETURN(ExprPtr value, expressions_.Parse());
        macro->defaults.push_back(std::move(value));
      } else if (!macro->defaults.empty()) {
        return SyntaxError(name.line, "a parameter without a default after one with a default");
      }
    }
    tokens_.Take();
    return absl::OkStatus();
  }

  // The body of a function: no loop of the outside can be left from it.
  absl::StatusOr<Body> ParseFunctionBody(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    OCTAVO_ASSIGN_OR_RETURN(Body body, ParseWholeBlock(end));
    loops_ = loops;
    return body;
  }

  Result ParseMacro(int line) {
    if (!tokens_.Is(TokenKind::kName)) return tokens_.Unexpected("the name of a macro");
    const std::string name = tokens_.Take().text;
    Macro node{.name = {name},
               .macro = {.name = name, .parameters = {}, .defaults = {}, .body = {}}};
    OCTAVO_RETURN_IF_ERROR(ParseSignature(&node.macro));
    OCTAVO_ASSIGN_OR_RETURN(node.macro.body, ParseFunctionBody("endmacro"));
    return Statement{.line = line, .node = std::move(node)};
  }

  Result ParseCallBlock(int line) {
    CallBlock node;
    node.macro.name = "caller";
    if (tokens_.IsOperator("(")) OCTAVO_RETURN_IF_ERROR(ParseSignature(&node.macro));
    OCTAVO_ASSIGN_OR_RETURN(node.call, expressions_.Parse());
    if (!std::holds_alternative<Call>(node.call->node)) {
      return SyntaxError(line, "a call block without a call");
    }
    OCTAVO_ASSIGN_OR_RETURN(node.macro.body, ParseFunctionBody("endcall"));
    return Statement{.line = line, .node = std::move(node)};
  }

  Result ParseGeneration(int line) {
    CallBlock node;
    OCTAVO_ASSIGN_OR_RETURN(node.macro.body, ParseFunctionBody("endgeneration"));
    return Statement{.line = line, .node = std::move(node)};
  }

  Result ParsePrint(int line) {
    Output node;
    while (!tokens_.Is(TokenKind::kBlockEnd)) {
      if (!node.parts.empty()) OCTAVO_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      OCTAVO_ASSIGN_OR_RETURN(ExprPtr part, expressions_.Parse());
      node.parts.push_back(std::move(part));
    }
    return Statement{.line = line, .node = std::move(node)};
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int nesting_ = 0;
  int loops_ = 0;
  int statements_ = 0;
};

absl::Status CheckNames(const std::vector<Token>& tokens) {
  absl::flat_hash_set<std::string_view> names;
  for (const Token& token : tokens) {
    if (token.kind != TokenKind::kName) continue;
    names.insert(token.text);
    if (names.size() > kTemplateNamesMax) {
      return SyntaxError(token.line, fmt::format("more than {} names", kTemplateNamesMax));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Program> ParseProgram(std::string_view source) {
  OCTAVO_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  OCTAVO_RETURN_IF_ERROR(CheckNames(tokens));
  OCTAVO_ASSIGN_OR_RETURN(Body body, StatementParser(std::move(tokens)).ParseAll());
  Program program{.body = std::move(body)};
  OCTAVO_RETURN_IF_ERROR(ResolveNames(&program));
  return program;
}

}  // namespace octavo::jinja
