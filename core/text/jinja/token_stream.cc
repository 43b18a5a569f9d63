#include "core/text/jinja/token_stream.h"

#include "fmt/format.h"

namespace octavo::jinja {
namespace {

std::string_view KindText(TokenKind kind) {
  switch (kind) {
    case TokenKind::kData:
      return "text";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kName:
      return "a name";
    case TokenKind::kString:
      return "a string";
    case TokenKind::kNumber:
      return "a number";
    case TokenKind::kOperator:
      return "an operator";
    case TokenKind::kEnd:
      return "the end of the template";
  }
  return "";
}

}  // namespace

Token TokenStream::Take() {
  Token token = current();
  if (token.kind != TokenKind::kEnd) ++at_;
  return token;
}

bool TokenStream::SkipName(std::string_view name) {
  if (!IsName(name)) return false;
  ++at_;
  return true;
}

bool TokenStream::SkipOperator(std::string_view text) {
  if (!IsOperator(text)) return false;
  ++at_;
  return true;
}

absl::Status TokenStream::Expect(TokenKind kind) {
  if (!Is(kind)) return Unexpected(KindText(kind));
  if (kind != TokenKind::kEnd) ++at_;
  return absl::OkStatus();
}

absl::Status TokenStream::ExpectName(std::string_view name) {
  return SkipName(name) ? absl::OkStatus() : Unexpected(fmt::format("'{}'", name));
}

absl::Status TokenStream::ExpectOperator(std::string_view text) {
  return SkipOperator(text) ? absl::OkStatus() : Unexpected(fmt::format("'{}'", text));
}

absl::Status TokenStream::Unexpected(std::string_view expected) const {
  const bool named = Is(TokenKind::kName) || Is(TokenKind::kOperator);
  const std::string found =
      named ? fmt::format("'{}'", current().text) : std::string(KindText(current().kind));
  return SyntaxError(line(), fmt::format("{} where {} is expected", found, expected));
}

}  // namespace octavo::jinja
