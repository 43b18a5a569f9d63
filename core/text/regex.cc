#include "core/text/regex.h"

#include <algorithm>
#include <array>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/unicode_additions.h"
#include "fmt/format.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace octavo {
namespace {

// A pattern that covers its text, as those of pre-tokenizers do, takes a step or two per byte. One
// run of spaces as long as the text costs one step per byte at most; the constant is for the rest.
constexpr uint32_t kStepsPerMatchMin = 5'000'000;
constexpr uint32_t kStepsPerByte = 4;
constexpr uint32_t kHeapKibMax = 64 << 10;
constexpr size_t kJitStackBytesMax = 1 << 20;

// The step limit does not see work that never backtracks; this does. 2 microseconds a byte is some
// ten times what real patterns take on a busy core.
constexpr Clock::Nanos kTimeMin = std::chrono::seconds(2);
constexpr Clock::Nanos kTimePerByte = std::chrono::microseconds(2);
constexpr uint64_t kCallsPerTimeCheck = 32;

std::string Pcre2Message(int code) {
  std::array<PCRE2_UCHAR, 256> text = {};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

std::string ClassWith(std::string_view known, auto added) {
  std::string out(known);
  for (const CodeRange& range : added) {
    out += fmt::format(R"(\x{{{:x}}}-\x{{{:x}}})", static_cast<uint32_t>(range.first),
                       static_cast<uint32_t>(range.last));
  }
  return out;
}

}  // namespace

struct Regex::Code {
  explicit Code(pcre2_code* compiled) : code(compiled) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  pcre2_code* code;
};

struct RegexScratch::State {
  explicit State(size_t text_bytes)
      : time_left(kTimeMin + kTimePerByte * text_bytes),
        data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 << 10, kJitStackBytesMax, nullptr)) {
    OCTAVO_CHECK(data != nullptr && context != nullptr);
    pcre2_set_heap_limit(context, kHeapKibMax);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // False once the time is used up. Cheap: looks at the clock at its first call and then rarely.
  bool HasTime() {
    if (calls++ % kCallsPerTimeCheck != 0) return true;
    const Clock::Nanos now = Clock::System().Now();
    if (calls == 1) deadline = now + time_left;
    return now <= deadline;
  }

  Clock::Nanos time_left;
  Clock::Nanos deadline{0};
  uint64_t calls = 0;
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

RegexScratch::RegexScratch(size_t text_bytes) : state_(std::make_unique<State>(text_bytes)) {}
RegexScratch::~RegexScratch() = default;

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Make(const std::string& pattern, unsigned options) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_ANCHORED | options, &error, &offset, nullptr);
  if (compiled == nullptr) {
    return MakeError(
        Reason::kBadCheckpoint,
        fmt::format("the regular expression '{}' is wrong ({})", pattern, Pcre2Message(error)),
        {.file = "tokenizer.json"});
  }
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // without it, matching is only slower
  return Regex(std::make_unique<Code>(compiled));
}

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("a regular expression has {} bytes; at most {}", pattern.size(),
                                 kPatternBytesMax),
                     {.file = "tokenizer.json"});
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::string rewritten, RewriteForPcre2(pattern));
  return Make(rewritten, PCRE2_UCP);
}

absl::StatusOr<Regex> Regex::CompileLiteral(std::string_view text) {
  if (text.empty() || text.size() > kPatternBytesMax) {
    return MakeError(
        Reason::kBadCheckpoint,
        fmt::format("a split string has {} bytes; 1 to {}", text.size(), kPatternBytesMax),
        {.file = "tokenizer.json"});
  }
  return Make(std::string(text), PCRE2_LITERAL);
}

Regex Regex::Digits(bool individual) {
  const std::string members = ClassWith(R"(\p{N})", kDigitsStepAdded);
  auto regex = Make(fmt::format("[{}]{}", members, individual ? "" : "+"), PCRE2_UCP);
  OCTAVO_CHECK(regex.ok());
  return *std::move(regex);
}

Regex Regex::WordCharacter() {
  const std::string letters = ClassWith(R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})", kLettersAdded);
  const std::string members = ClassWith(letters + R"(\x{200c}\x{200d})", kDecimalsAdded);
  auto regex = Make(fmt::format("[{}]", members), PCRE2_UCP);
  OCTAVO_CHECK(regex.ok());
  return *std::move(regex);
}

absl::Status Regex::FindAll(std::string_view text, RegexScratch* scratch,
                            std::vector<RegexMatch>* matches) const {
  RegexScratch::State& state = *scratch->state_;
  const auto size = static_cast<uint32_t>(std::min<size_t>(text.size(), 1u << 28));
  pcre2_set_match_limit(state.context, kStepsPerMatchMin + kStepsPerByte * size);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  auto too_much = [](std::string_view what) {
    return MakeError(
        Reason::kBadRequest,
        fmt::format("a regular expression of the tokenizer took {} on this text", what), {},
        "Send shorter text, or check the pattern in tokenizer.json");
  };
  // The pattern is anchored and tried at every position from here, so that the clock is looked at
  // in between. (Anchoring is a compile-time option: with the match-time one PCRE2 leaves its JIT.)
  for (size_t at = 0; at < text.size();) {
    if (!state.HasTime()) return too_much("too long");
    const int found = pcre2_match(code_->code, subject, text.size(), at,
                                  PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, state.data, state.context);
    if (found >= 0) {
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(state.data);
      if (range[0] != at || range[1] <= at || range[1] > text.size()) return too_much("a \\K");
      matches->push_back({range[0], range[1]});
      at = range[1];
    } else if (found == PCRE2_ERROR_NOMATCH) {
      do {
        ++at;
      } while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
    } else {
      return too_much(fmt::format("too much work ({})", Pcre2Message(found)));
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
