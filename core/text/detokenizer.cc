#include "core/text/detokenizer.h"

#include "core/text/utf8.h"

namespace octavo {

Detokenizer::Detokenizer(const Tokenizer* tokenizer, bool skip_special, TextPosition position)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      strips_max_(position == TextPosition::kStart ? tokenizer->decode_rule().strip_count : 0),
      strips_left_(strips_max_) {}

void Detokenizer::AppendReplacements(size_t bytes, std::string* out) const {
  const size_t count = tokenizer_->decode_rule().replace_each_byte ? bytes : 1;
  for (size_t i = 0; i < count; ++i) *out += kReplacementUtf8;
}

void Detokenizer::Strip(std::string* text) {
  const std::string& strip = tokenizer_->decode_rule().strip;
  size_t begin = 0;
  while (strips_left_ > 0 && begin < text->size()) {
    if (text->compare(begin, strip.size(), strip) == 0) {
      begin += strip.size();
      --strips_left_;
    } else {
      strips_left_ = 0;
    }
  }
  text->erase(0, begin);
}

std::string Detokenizer::Push(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  pending_ += tokenizer_->TokenBytes(id);
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char next = DecodeUtf8(rest);
    if (next.state == Utf8State::kIncomplete) break;
    if (next.state == Utf8State::kValid) {
      out += rest.substr(0, next.size);
    } else {
      AppendReplacements(next.size, &out);
    }
    rest.remove_prefix(next.size);
  }
  pending_ = std::string(rest);
  Strip(&out);
  return out;
}

std::string Detokenizer::Finish() {
  std::string out;
  if (!pending_.empty()) AppendReplacements(pending_.size(), &out);
  pending_.clear();
  strips_left_ = strips_max_;
  return out;
}

}  // namespace octavo
