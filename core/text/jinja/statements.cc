// Statements, and the variables that they assign.

#include "core/base/status.h"
#include "core/text/jinja/activation.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/evaluator.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/iterate.h"
#include "fmt/format.h"

namespace octavo::jinja {

absl::StatusOr<std::string> Evaluator::Run() {
  std::string text;
  out_ = &text;
  const Activation activation(this, nullptr, program_.slots);
  EnterScope(program_.start);
  OCTAVO_RETURN_IF_ERROR(RunBody(program_.body));
  return text;
}

Frame* Evaluator::FrameOf(Place place) {
  Frame* frame = frame_;
  for (int i = 0; i < place.hops; ++i) frame = frame->outer;
  return frame;
}

Value& Evaluator::SlotOf(Place place) {
  return FrameOf(place)->slots[static_cast<size_t>(place.slot)];
}

Value Evaluator::FromContext(std::string_view name) const {
  for (const auto& [variable, value] : variables_) {
    if (variable == name) return value;
  }
  const FunctionEntry* global = FindGlobal(name);
  return global == nullptr ? Value() : Value::Of(global);
}

void Evaluator::EnterScope(const ScopeStart& start) {
  for (const SlotStart& slot : start) {
    Value& value = frame_->slots[static_cast<size_t>(slot.slot)];
    if (slot.kind == SlotStart::Kind::kFromContext) {
      value = FromContext(slot.name);
    } else {
      value = slot.kind == SlotStart::Kind::kFromOuter ? SlotOf(slot.outer) : Value();
    }
  }
}

absl::Status Evaluator::Assign(const Target& target, const Value& value) {
  if (target.several) {
    OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(value, budget_));
    if (items.size() != target.several->size()) {
      return RenderError(
          fmt::format("cannot unpack {} values into {}", items.size(), target.several->size()));
    }
    for (size_t i = 0; i < items.size(); ++i) {
      OCTAVO_RETURN_IF_ERROR(Assign((*target.several)[i], items[i]));
    }
    return absl::OkStatus();
  }
  if (!target.attribute) {
    SlotOf(target.name.place) = value;
    return absl::OkStatus();
  }
  const auto* data = SlotOf(target.name.place).As<NamespaceData*>();
  if (data == nullptr) return RenderError("cannot assign attribute on non-namespace object");
  Entries& attributes = (*data)->attributes;
  OCTAVO_RETURN_IF_ERROR(budget_.SpendItems(attributes.size()));
  for (auto& [name, attribute] : attributes) {
    if (name.text() != *target.attribute) continue;
    attribute = value;
    return absl::OkStatus();
  }
  OCTAVO_RETURN_IF_ERROR(budget_.Make(2 * sizeof(Value)));
  attributes.emplace_back(Value::Text(*target.attribute), value);
  return absl::OkStatus();
}

absl::Status Evaluator::Append(std::string_view text) {
  if (out_->size() + text.size() > kOutputBytesMax) {
    return RenderError(fmt::format("more than {} MiB of text", kOutputBytesMax >> 20));
  }
  OCTAVO_RETURN_IF_ERROR(budget_.SpendBytes(text.size()));
  *out_ += text;
  return absl::OkStatus();
}

absl::StatusOr<std::string> Evaluator::Capture(const Body& body) {
  std::string text;
  std::string* const out = std::exchange(out_, &text);
  const absl::Status status = RunBody(body);
  out_ = out;
  OCTAVO_RETURN_IF_ERROR(status);
  return text;
}

absl::Status Evaluator::RunBody(const Body& body) {
  for (const Statement& statement : body) {
    OCTAVO_RETURN_IF_ERROR(RunStatement(statement));
    if (flow_ != Flow::kOn) break;
  }
  return absl::OkStatus();
}

absl::Status Evaluator::RunStatement(const Statement& statement) {
  ++level_;
  absl::Status status = Enter();
  if (status.ok()) {
    status = std::visit([&](const auto& node) { return Visit(node); }, statement.node);
  }
  --level_;
  return At(statement.line, std::move(status));
}

absl::Status Evaluator::Visit(const Output& node) {
  for (const ExprPtr& part : node.parts) {
    if (const auto* literal = std::get_if<Literal>(&part->node);
        literal != nullptr && literal->value.IsString()) {
      OCTAVO_RETURN_IF_ERROR(Append(literal->value.text()));
      continue;
    }
    OCTAVO_ASSIGN_OR_RETURN(const Value value, Evaluate(*part));
    if (value.IsString()) {
      OCTAVO_RETURN_IF_ERROR(Append(value.text()));
      continue;
    }
    const auto text = ToText(value, budget_);
    if (!text.ok()) return At(part->line, text.status());
    OCTAVO_RETURN_IF_ERROR(Append(*text));
  }
  return absl::OkStatus();
}

absl::Status Evaluator::Visit(const If& node) {
  for (const auto& [test, body] : node.branches) {
    OCTAVO_ASSIGN_OR_RETURN(const Value value, Evaluate(*test));
    if (Truth(value)) return RunBody(body);
  }
  return RunBody(node.otherwise);
}

absl::Status Evaluator::Visit(const Set& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.value));
  return Assign(node.target, value);
}

absl::Status Evaluator::Visit(const SetBlock& node) {
  EnterScope(node.start);
  OCTAVO_ASSIGN_OR_RETURN(std::string text, Capture(node.body));
  if (flow_ != Flow::kOn) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(Value block, MakeText(std::move(text), budget_));
  block_texts_.push_back(std::move(block));
  const Result value = Evaluate(*node.value);
  block_texts_.pop_back();
  OCTAVO_RETURN_IF_ERROR(value.status());
  return Assign(node.target, *value);
}

absl::Status Evaluator::Visit(const FilterBlock& node) {
  EnterScope(node.start);
  OCTAVO_ASSIGN_OR_RETURN(std::string text, Capture(node.body));
  if (flow_ != Flow::kOn) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(Value block, MakeText(std::move(text), budget_));
  block_texts_.push_back(std::move(block));
  const Result value = Evaluate(*node.value);
  block_texts_.pop_back();
  OCTAVO_RETURN_IF_ERROR(value.status());
  OCTAVO_ASSIGN_OR_RETURN(const std::string shown, ToText(*value, budget_));
  return Append(shown);
}

absl::Status Evaluator::Visit(const With& node) {
  EnterScope(node.start);
  for (const auto& [target, expr] : node.values) {
    OCTAVO_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr));
    OCTAVO_RETURN_IF_ERROR(Assign(target, value));
  }
  return RunBody(node.body);
}

absl::Status Evaluator::Visit(const Macro& node) {
  OCTAVO_RETURN_IF_ERROR(budget_.Make(sizeof(MacroData)));
  SlotOf(node.name.place) = Value::Of(MakeMacro(node.macro));
  return absl::OkStatus();
}

absl::Status Evaluator::Visit(const CallBlock& node) {
  OCTAVO_RETURN_IF_ERROR(budget_.Make(sizeof(MacroData)));
  const MacroData* caller = MakeMacro(node.macro);
  if (node.call == nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(const Value shown, CallMacro(*caller, {}));
    return Append(shown.text());
  }
  const Call& call = std::get<Call>(node.call->node);
  OCTAVO_ASSIGN_OR_RETURN(const Value callee, Evaluate(*call.callee));
  OCTAVO_ASSIGN_OR_RETURN(Arguments arguments, Evaluate(call.arguments));
  arguments.named.emplace_back("caller", Value::Of(caller));
  OCTAVO_ASSIGN_OR_RETURN(const Value value, CallValue(callee, std::move(arguments)));
  OCTAVO_ASSIGN_OR_RETURN(const std::string shown, ToText(value, budget_));
  return Append(shown);
}

absl::Status Evaluator::Visit(const Break&) {
  flow_ = Flow::kBreak;
  return absl::OkStatus();
}

absl::Status Evaluator::Visit(const Continue&) {
  flow_ = Flow::kContinue;
  return absl::OkStatus();
}

absl::Status Evaluator::Visit(const For& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value iterable, Evaluate(*node.iterable));
  if (!node.recursive) return RunLoop(node, iterable, 0);
  frame_->captured = true;  // `loop` may be called when this call is over
  const Activation activation(this, frame_, node.slots);
  return RunLoop(node, iterable, 0);
}

Evaluator::Result Evaluator::TestedElements(const For& node, const Value& iterable) {
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(iterable, budget_));
  frame_->captured = true;  // elements may be asked for when this call is over
  auto next = [this, &node, frame = frame_, started = false,
               iterator = std::move(iterator)]() mutable -> absl::StatusOr<std::optional<Value>> {
    Frame* const caller = std::exchange(frame_, frame);
    if (!std::exchange(started, true)) EnterScope(node.test_start);
    absl::StatusOr<std::optional<Value>> found = std::nullopt;
    while (true) {
      found = iterator.Next();
      if (!found.ok() || !found->has_value()) break;
      if (absl::Status status = Assign(node.test_target, **found); !status.ok()) {
        found = status;
        break;
      }
      const Result holds = Evaluate(*node.test);
      if (!holds.ok()) found = holds.status();
      if (!holds.ok() || Truth(*holds)) break;
    }
    frame_ = caller;
    return found;
  };
  return MakeStream(std::move(next), {iterable});
}

absl::Status Evaluator::RunLoop(const For& node, const Value& iterable, int64_t depth0) {
  Value elements = iterable;
  if (node.test != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(elements, TestedElements(node, iterable));
  }
  OCTAVO_ASSIGN_OR_RETURN(LoopState state,
                          LoopState::Start(elements, depth0, node.recursive, budget_));
  LoopState* loop = &state;
  if (node.loop) {
    OCTAVO_RETURN_IF_ERROR(budget_.Make(sizeof(LoopRun)));
    loop = &loops_.emplace_back(std::move(state), &node, node.recursive ? frame_->outer : frame_);
    SlotOf(node.loop->place) = Value::Of(loop);
  }
  bool completed = false;
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(const auto element, loop->Advance());
    if (!element) break;
    OCTAVO_RETURN_IF_ERROR(Assign(node.target, *element));
    EnterScope(node.body_start);
    OCTAVO_RETURN_IF_ERROR(RunBody(node.body));
    const Flow flow = std::exchange(flow_, Flow::kOn);
    if (flow == Flow::kBreak) break;
    completed = completed || flow == Flow::kOn;
  }
  // As in Jinja, a loop without one turn that came to its end has its "else".
  if (completed) return absl::OkStatus();
  EnterScope(node.otherwise_start);
  return RunBody(node.otherwise);
}

}  // namespace octavo::jinja
