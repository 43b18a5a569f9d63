#pragma once

// The text side of a generation, without any network: a client's request becomes an engine request,
// and the engine's tokens become text.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/detokenizer.h"
#include "core/text/stop_strings.h"
#include "core/text/text_bundle.h"
#include "octavo/v1/engine.pb.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

inline constexpr uint32_t kMaxTokensDefault = 256;

// The ids of a prompt. Text gets the tokenizer's own special tokens; a chat goes through the
// model's template, which writes them itself. Errors: kBadRequest (no input, no messages),
// kUnsupported (no template that Octavo knows).
absl::StatusOr<std::vector<int32_t>> PromptIds(const v1::GenerateRequest& request,
                                               const TextBundle& text);

// The text of a conversation, as the template writes it.
absl::StatusOr<std::string> RenderChat(const v1::Chat& chat, const TextBundle& text);

// Tokenizes and fills defaults: kMaxTokensDefault, a drawn seed, end-of-text ids as stop ids unless
// ignore_eos. Errors: those of PromptIds and CheckGeneration (core/text/generation_bounds.h),
// kBadRequest for more than kChoicesMax choices.
absl::StatusOr<v1::EngineRequest> BuildEngineRequest(const v1::GenerateRequest& request,
                                                     const TextBundle& text);

// What choice `index` asks the engine, from what BuildEngineRequest made: draws with seed + index,
// and of choice 0 alone the prompt's log probabilities are asked.
v1::EngineRequest ChoiceOf(const v1::EngineRequest& engine, uint32_t index);

// How a generation ended, as metrics call it.
std::string_view FinishName(v1::FinishReason reason);

// Puts the engine's events together: text in whole characters, cut at a stop string. Those are
// looked for in the text that comes after the first min_tokens tokens.
class Assembler {
 public:
  // `text` outlives the assembler. kBadRequest for bad stop strings.
  static absl::StatusOr<Assembler> Create(const v1::GenerateRequest& request,
                                          const TextBundle& text);

  // What the client gets for `event`; perhaps nothing (no text, no tokens). After a stop string
  // matched, everything is dropped.
  v1::Delta Push(const v1::EngineEvent& event);

  // A stop string matched, or the engine's last event came.
  bool finished() const { return reason_ != v1::FINISH_UNSPECIFIED; }
  v1::FinishReason reason() const { return reason_; }
  const std::string& matched_stop() const { return matched_stop_; }
  uint32_t tokens() const { return tokens_; }  // generated so far, the stopping one included
  uint32_t cached_tokens() const { return cached_tokens_; }  // of the prompt

 private:
  Assembler(const v1::GenerateRequest& request, const TextBundle& text, StopMatcher matcher);
  // Adds `text`, which the last token brought.
  void AddText(const std::string& text, v1::Delta& delta);

  uint32_t min_tokens_;
  std::vector<std::string> stops_;
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  v1::FinishReason reason_ = v1::FINISH_UNSPECIFIED;
  std::string matched_stop_;
  uint32_t tokens_ = 0;
  uint32_t cached_tokens_ = 0;
};

}  // namespace octavo
