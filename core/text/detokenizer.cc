#include "core/text/detokenizer.h"

#include "core/text/utf8.h"

namespace octavo {

std::string Detokenizer::Push(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  pending_ += tokenizer_->TokenBytes(id);
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char next = DecodeUtf8(rest);
    if (next.state == Utf8State::kIncomplete) break;
    out += next.state == Utf8State::kValid ? rest.substr(0, next.size) : kReplacementUtf8;
    rest.remove_prefix(next.size);
  }
  pending_ = std::string(rest);
  return out;
}

std::string Detokenizer::Finish() {
  const std::string out = LossyUtf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace octavo
