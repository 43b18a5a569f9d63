#pragma once

// The tokens of a template, read one after another with one token of look-ahead.

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/text/jinja/lexer.h"

namespace octavo::jinja {

class TokenStream {
 public:
  // REQUIRES: `tokens` ends with kEnd.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  int line() const { return current().line; }
  // The current token, moving on unless it is kEnd.
  Token Take();

  bool Is(TokenKind kind) const { return current().kind == kind; }
  bool IsName(std::string_view name) const {
    return Is(TokenKind::kName) && current().text == name;
  }
  bool IsOperator(std::string_view text) const {
    return Is(TokenKind::kOperator) && current().text == text;
  }
  // Moves over the current token if it is this one.
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view text);

  // Moves over the current token, or says what was expected.
  absl::Status Expect(TokenKind kind);
  absl::Status ExpectName(std::string_view name);
  absl::Status ExpectOperator(std::string_view text);
  // "line N: unexpected TOKEN".
  absl::Status Unexpected(std::string_view expected) const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace octavo::jinja
