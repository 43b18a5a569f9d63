#include "core/text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/jinja/literals.h"
#include "core/text/jinja/strings.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

std::string WithLineFeeds(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || (c >= '0' && c <= '9'); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : rest_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (!rest_.empty()) {
      OCTAVO_RETURN_IF_ERROR(ReadDataAndTag());
    }
    Push(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  void Push(TokenKind kind, std::string text = {}) {
    tokens_.push_back({.kind = kind, .line = line_, .text = std::move(text)});
  }

  // Moves over `size` bytes.
  void Skip(size_t size) {
    const std::string_view skipped = rest_.substr(0, size);
    line_ += static_cast<int>(std::count(skipped.begin(), skipped.end(), '\n'));
    if (!skipped.empty()) line_starting_ = skipped.back() == '\n';
    rest_.remove_prefix(size);
  }

  void SkipSpace() { Skip(rest_.size() - Strip(rest_, {}, {.right = false}).size()); }

  // Where the next tag begins; the end if there is none.
  size_t NextTag() const {
    for (size_t at = 0; (at = rest_.find('{', at)) != rest_.npos; ++at) {
      if (at + 1 < rest_.size() && std::string_view("{%#").find(rest_[at + 1]) != rest_.npos) {
        return at;
      }
    }
    return rest_.size();
  }

  // The text before a tag, without the white space that the tag takes.
  std::string_view Trimmed(std::string_view data, char tag, char sign) const {
    if (sign == '-') return Strip(data, {}, {.left = false});
    if (sign == '+' || tag == '{') return data;
    const size_t line = data.rfind('\n') + 1;  // 0 if there is none
    if (line == 0 && !line_starting_) return data;
    return Strip(data.substr(line)).empty() ? data.substr(0, line) : data;
  }

  absl::Status ReadDataAndTag() {
    const size_t at = NextTag();
    const std::string_view data = rest_.substr(0, at);
    if (at == rest_.size()) {
      Push(TokenKind::kData, std::string(data));
      Skip(at);
      return absl::OkStatus();
    }
    const char tag = rest_[at + 1];
    const char next = at + 2 < rest_.size() ? rest_[at + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    const std::string_view kept = Trimmed(data, tag, sign);
    if (!kept.empty()) Push(TokenKind::kData, std::string(kept));
    Skip(at);
    if (tag == '%') {
      if (const size_t raw = RawBeginSize()) return ReadRaw(raw);
    }
    const int begin_line = line_;
    Skip(sign == '\0' ? 2 : 3);
    if (tag == '#') return SkipComment(begin_line);
    Push(tag == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin);
    return ReadTag(tag == '%');
  }

  // The closing tag that `rest` begins with, and the white space it takes; 0 if it begins with
  // none. "%}" with a line break after it, "-%}" with all white space, "+%}" with none.
  static size_t EndSize(std::string_view rest, std::string_view end, bool takes_line_break) {
    const bool minus = rest.starts_with('-');
    const bool plus = rest.starts_with('+') && takes_line_break;
    const std::string_view mark = minus || plus ? rest.substr(1) : rest;
    if (!mark.starts_with(end)) return 0;
    const std::string_view after = mark.substr(end.size());
    size_t size = rest.size() - after.size();
    if (minus) size += after.size() - Strip(after, {}, {.right = false}).size();
    if (!minus && !plus && takes_line_break && after.starts_with('\n')) ++size;
    return size;
  }

  absl::Status SkipComment(int begin_line) {
    for (size_t at = 0; at < rest_.size(); ++at) {
      at = std::min(rest_.find_first_of("#-+", at), rest_.size());
      const size_t size = at == rest_.size() ? 0 : EndSize(rest_.substr(at), "#}", true);
      if (size == 0) continue;
      Skip(at + size);
      return absl::OkStatus();
    }
    return SyntaxError(begin_line, "a comment without an end");
  }

  // {% raw %}, and a white space that "-%}" takes. A raw block takes no line break.
  size_t RawBeginSize() const { return RawTagSize(rest_, "raw", false); }

  static size_t RawTagSize(std::string_view rest, std::string_view name, bool takes_line_break) {
    if (!rest.starts_with("{%")) return 0;
    std::string_view at = rest.substr(2);
    if (at.starts_with('-') || at.starts_with('+')) at.remove_prefix(1);
    at = Strip(at, {}, {.right = false});
    if (!at.starts_with(name)) return 0;
    at = Strip(at.substr(name.size()), {}, {.right = false});
    const size_t end = EndSize(at, "%}", takes_line_break);
    return end == 0 ? 0 : rest.size() - at.size() + end;
  }

  absl::Status ReadRaw(size_t begin_size) {
    const int begin_line = line_;
    Skip(begin_size);
    for (size_t at = 0; (at = rest_.find("{%", at)) != rest_.npos; ++at) {
      const size_t size = RawTagSize(rest_.substr(at), "endraw", true);
      if (size == 0) continue;
      const char sign = rest_[at + 2];
      const std::string_view kept = Trimmed(rest_.substr(0, at), '%', sign);
      if (!kept.empty()) Push(TokenKind::kData, std::string(kept));
      Skip(at + size);
      return absl::OkStatus();
    }
    return SyntaxError(begin_line, "a raw block without an end");
  }

  absl::Status ReadTag(bool block) {
    const int begin_line = line_;
    std::vector<char> open;  // brackets to be closed
    while (true) {
      SkipSpace();
      if (rest_.empty()) return SyntaxError(begin_line, "a tag without an end");
      const size_t end = open.empty() ? EndSize(rest_, block ? "%}" : "}}", block) : 0;
      if (end != 0) {
        Push(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd);
        Skip(end);
        return absl::OkStatus();
      }
      OCTAVO_RETURN_IF_ERROR(ReadToken(&open));
    }
  }

  absl::Status ReadToken(std::vector<char>* open) {
    const char c = rest_[0];
    // ".5" after a point is an index, not a fraction: a number never begins with a point, and
    // after one it is an integer.
    if (c >= '0' && c <= '9') return ReadNumberToken();
    if (IsNameStart(c)) {
      size_t size = 1;
      while (size < rest_.size() && IsNamePart(rest_[size])) ++size;
      if (size < rest_.size() && static_cast<unsigned char>(rest_[size]) >= 0x80) {
        return SyntaxError(line_, "a name with characters outside ASCII is not handled");
      }
      Push(TokenKind::kName, std::string(rest_.substr(0, size)));
      Skip(size);
      return absl::OkStatus();
    }
    if (c == '\'' || c == '"') return ReadStringToken();
    return ReadOperator(open);
  }

  absl::Status ReadNumberToken() {
    const bool after_point = !tokens_.empty() && tokens_.back().kind == TokenKind::kOperator &&
                             tokens_.back().text == "." && adjacent_point_ == rest_.data();
    size_t size = NumberSize(rest_);
    if (after_point) {
      const std::string_view digits = rest_.substr(0, rest_.find_first_not_of("0123456789_"));
      size = std::min(size, NumberSize(digits));
    }
    const auto number = ReadNumber(rest_.substr(0, size));
    if (!number.ok()) return SyntaxError(line_, std::string(number.status().message()));
    Push(TokenKind::kNumber, std::string(rest_.substr(0, size)));
    tokens_.back().number = *number;
    Skip(size);
    return absl::OkStatus();
  }

  absl::Status ReadStringToken() {
    const size_t size = StringSize(rest_);
    if (size == 0) return SyntaxError(line_, "a string without an end");
    auto text = ReadString(rest_.substr(1, size - 2));
    if (!text.ok()) return SyntaxError(line_, std::string(text.status().message()));
    Push(TokenKind::kString, *std::move(text));
    Skip(size);
    return absl::OkStatus();
  }

  absl::Status ReadOperator(std::vector<char>* open) {
    static constexpr std::array<std::string_view, 26> kOperators = {
        "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto found = std::find_if(kOperators.begin(), kOperators.end(),
                                    [&](std::string_view text) { return rest_.starts_with(text); });
    if (found == kOperators.end()) {
      const size_t size = DecodeUtf8(rest_).size;
      return SyntaxError(line_, fmt::format("unexpected character '{}'", rest_.substr(0, size)));
    }
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') open->push_back(c);
    if (c == ')' || c == ']' || c == '}') {
      const char begin = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open->empty() || open->back() != begin) {
        return SyntaxError(line_, fmt::format("unexpected '{}'", c));
      }
      open->pop_back();
    }
    Push(TokenKind::kOperator, std::string(*found));
    Skip(found->size());
    if (c == '.') adjacent_point_ = rest_.data();
    return absl::OkStatus();
  }

  std::string_view rest_;
  int line_ = 1;
  bool line_starting_ = true;  // whether what was read last ended with a line break
  const char* adjacent_point_ = nullptr;
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status SyntaxError(int line, std::string_view what) {
  return MakeError(Reason::kUnsupported, fmt::format("line {}: {}", line, what));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (source.size() > kTemplateBytesMax) {
    return SyntaxError(1, fmt::format("the template has {} bytes, at most {} are handled",
                                      source.size(), kTemplateBytesMax));
  }
  const std::string text = WithLineFeeds(source);
  return Lexer(text).Run();
}

}  // namespace octavo::jinja
