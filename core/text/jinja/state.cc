#include "core/text/jinja/state.h"

#include <array>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/native.h"

namespace octavo::jinja {
namespace {

absl::StatusOr<Value> CallCycle(const Value& self, const BoundArguments& arguments,
                                const NativeContext&) {
  return (*self.As<LoopState*>())->Cycle(arguments.rest().positional);
}

absl::StatusOr<Value> CallChanged(const Value& self, const BoundArguments& arguments,
                                  const NativeContext&) {
  OCTAVO_ASSIGN_OR_RETURN(const bool changed,
                          (*self.As<LoopState*>())->Changed(arguments.rest().positional));
  return Value::Bool(changed);
}

constexpr FunctionEntry kCycle = {"cycle", "", 0, CallCycle, true};
constexpr FunctionEntry kChanged = {"changed", "", 0, CallChanged, true};

}  // namespace

absl::StatusOr<LoopState> LoopState::Start(const Value& iterable, int64_t depth0, bool recurse,
                                           Budget& budget) {
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(iterable, budget));
  return LoopState(iterable, std::move(iterator), depth0, recurse, &budget);
}

absl::StatusOr<std::optional<Value>> LoopState::Advance() {
  std::optional<Value> next;
  if (peeked_) {
    next = std::move(after_);
    // At the end it stays peeked: a generator is not asked again.
    peeked_ = !next.has_value();
    after_.reset();
  } else {
    OCTAVO_ASSIGN_OR_RETURN(next, iterator_.Next());
  }
  if (!next) return next;
  ++index0_;
  before_ = std::move(current_);
  current_ = next;
  return next;
}

absl::Status LoopState::Peek() {
  if (peeked_) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(after_, iterator_.Next());
  peeked_ = true;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> LoopState::LengthOfAll() {
  if (length_) return *length_;
  length_ = Length(iterable_);
  if (!length_) {  // a generator: its rest is made now
    Items rest;
    while (true) {
      OCTAVO_ASSIGN_OR_RETURN(auto item, iterator_.Next());
      if (!item) break;
      OCTAVO_RETURN_IF_ERROR(budget_->Make(sizeof(Value)));
      rest.push_back(*std::move(item));
    }
    length_ = static_cast<int64_t>(rest.size()) + index0_ + 1 + (after_.has_value() ? 1 : 0);
    OCTAVO_ASSIGN_OR_RETURN(const Value list, MakeList(std::move(rest), *budget_));
    OCTAVO_ASSIGN_OR_RETURN(iterator_, Iterate(list, *budget_));
  }
  return *length_;
}

absl::StatusOr<std::optional<Value>> LoopState::Attribute(const Value& loop,
                                                          std::string_view name) {
  if (name == "index") return Value::Int(index0_ + 1);
  if (name == "index0") return Value::Int(index0_);
  if (name == "first") return Value::Bool(index0_ == 0);
  if (name == "depth") return Value::Int(depth0_ + 1);
  if (name == "depth0") return Value::Int(depth0_);
  if (name == "previtem") {
    if (index0_ == 0 || !before_) return Value::UndefinedValue("there is no previous item");
    return *before_;
  }
  if (name == "last" || name == "nextitem") {
    OCTAVO_RETURN_IF_ERROR(Peek());
    if (name == "last") return Value::Bool(!after_.has_value());
    return after_ ? *after_ : Value::UndefinedValue("there is no next item");
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    OCTAVO_ASSIGN_OR_RETURN(const int64_t length, LengthOfAll());
    if (name == "length") return Value::Int(length);
    return Value::Int(length - index0_ - (name == "revindex0" ? 1 : 0));
  }
  if (name == "cycle" || name == "changed") {
    OCTAVO_ASSIGN_OR_RETURN(Value method, MakeMethod(loop, name == "cycle" ? &kCycle : &kChanged));
    return method;
  }
  return std::nullopt;
}

absl::StatusOr<Value> LoopState::Cycle(const Items& values) const {
  if (values.empty()) return RenderError("no items for cycling given");
  return values[static_cast<size_t>(index0_) % values.size()];
}

absl::StatusOr<bool> LoopState::Changed(Items values) {
  bool same = changed_.has_value() && changed_->size() == values.size();
  for (size_t i = 0; same && i < values.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(same, Equal((*changed_)[i], values[i], *budget_));
  }
  if (!same) changed_ = std::move(values);
  return !same;
}

}  // namespace octavo::jinja
