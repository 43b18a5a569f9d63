#include "worker/serve/step_state.h"

#include <span>

namespace octavo {
namespace {

template <typename T>
void AddValue(DigestStream& stream, T value) {
  stream.Add(std::as_bytes(std::span<const T>(&value, 1)));
}

template <typename Repeated>
void AddList(DigestStream& stream, const Repeated& list) {
  AddValue<uint64_t>(stream, static_cast<uint64_t>(list.size()));
  stream.Add(std::as_bytes(std::span(list.data(), static_cast<size_t>(list.size()))));
}

v1::Digest ToMessage(const Digest128& digest) {
  v1::Digest message;
  message.set_low(digest.low);
  message.set_high(digest.high);
  return message;
}

}  // namespace

v1::Digest StepState::Advance(const v1::Step& step) {
  DigestStream stream;
  AddValue(stream, state_.low);
  AddValue(stream, state_.high);
  AddValue<uint64_t>(stream, step.group_epoch());
  AddValue<uint64_t>(stream, step.index());
  for (const v1::StepChunk& chunk : step.chunks()) {
    AddValue<uint64_t>(stream, chunk.sequence());
    AddValue<uint32_t>(stream, chunk.start());
    AddList(stream, chunk.tokens());
    AddList(stream, chunk.blocks());
  }
  state_ = stream.Finish();
  return ToMessage(state_);
}

v1::Digest DigestOfRow(const float* row, size_t count) {
  return ToMessage(DigestOf(std::as_bytes(std::span(row, count))));
}

bool Equal(const v1::Digest& a, const v1::Digest& b) {
  return a.low() == b.low() && a.high() == b.high();
}

}  // namespace octavo
