// Calls: macros, their callers, loops that call themselves, and functions of the language.

#include <algorithm>

#include "core/base/status.h"
#include "core/text/jinja/activation.h"
#include "core/text/jinja/evaluator.h"
#include "core/text/jinja/iterate.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

// Takes the argument of this name out of `named`.
std::optional<Value> TakeNamed(std::vector<std::pair<std::string, Value>>* named,
                               std::string_view name) {
  const auto found = std::find_if(named->begin(), named->end(),
                                  [&](const auto& pair) { return pair.first == name; });
  if (found == named->end()) return std::nullopt;
  Value value = std::move(found->second);
  named->erase(found);
  return value;
}

absl::StatusOr<Value> DictOfNamed(std::vector<std::pair<std::string, Value>> named,
                                  Budget& budget) {
  Entries entries;
  for (auto& [name, value] : named) {
    entries.emplace_back(Value::Text(std::move(name)), std::move(value));
  }
  return MakeDict(std::move(entries), budget);
}

}  // namespace

absl::StatusOr<Arguments> Evaluator::Evaluate(const CallArguments& exprs) {
  Arguments arguments;
  for (const ExprPtr& expr : exprs.positional) {
    OCTAVO_ASSIGN_OR_RETURN(Value value, Evaluate(*expr));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, expr] : exprs.named) {
    OCTAVO_ASSIGN_OR_RETURN(Value value, Evaluate(*expr));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (exprs.star != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(const Value several, Evaluate(*exprs.star));
    OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(several, budget_));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  if (exprs.star_star != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(const Value mapping, Evaluate(*exprs.star_star));
    const Entries* entries = AsEntries(mapping);
    if (entries == nullptr) return TypeError("a mapping is needed after **", mapping);
    OCTAVO_RETURN_IF_ERROR(budget_.Make(entries->size() * sizeof(Value)));
    for (const auto& [key, value] : *entries) {
      if (!key.IsString()) return TypeError("keywords must be strings", key);
      if (TakeNamed(&arguments.named, key.text())) {
        return RenderError(fmt::format("'{}' is passed twice", key.text()));
      }
      arguments.named.emplace_back(key.text(), value);
    }
  }
  return arguments;
}

Evaluator::Result Evaluator::CallValue(const Value& callee, Arguments arguments) {
  if (const auto* macro = callee.As<const MacroData*>()) {
    return CallMacro(**macro, std::move(arguments));
  }
  if (const auto* function = callee.As<const FunctionEntry*>()) {
    return CallNative(**function, Value(), std::move(arguments), context_);
  }
  if (const auto* method = callee.As<std::shared_ptr<const BoundMethod>>()) {
    return CallNative(*(*method)->function, (*method)->self, std::move(arguments), context_);
  }
  if (const auto* loop = callee.As<LoopState*>()) return CallLoop(*loop, arguments);
  return TypeError("an object that cannot be called", callee);
}

absl::Status Evaluator::BindParameters(const MacroBody& macro, Arguments arguments) {
  const size_t count = macro.parameters.size();
  const size_t given = std::min(count, arguments.positional.size());
  for (size_t i = 0; i < given; ++i) {
    SlotOf(macro.parameters[i].place) = arguments.positional[i];
  }
  for (size_t i = given; i < count; ++i) {
    if (auto value = TakeNamed(&arguments.named, macro.parameters[i].name)) {
      SlotOf(macro.parameters[i].place) = *std::move(value);
    }
  }
  if (macro.caller) {
    const auto caller = TakeNamed(&arguments.named, "caller");
    SlotOf(macro.caller->place) =
        caller && !caller->IsNone() ? *caller : Value::UndefinedValue("No caller defined");
  }
  if (macro.kwargs) {
    OCTAVO_ASSIGN_OR_RETURN(SlotOf(macro.kwargs->place),
                            DictOfNamed(std::move(arguments.named), budget_));
  } else if (!arguments.named.empty()) {
    return RenderError(fmt::format("macro '{}' takes no keyword argument '{}'", macro.name,
                                   arguments.named[0].first));
  }
  if (macro.varargs) {
    Items rest(arguments.positional.begin() + static_cast<std::ptrdiff_t>(given),
               arguments.positional.end());
    OCTAVO_ASSIGN_OR_RETURN(SlotOf(macro.varargs->place), MakeTuple(std::move(rest), budget_));
  } else if (arguments.positional.size() > count) {
    return RenderError(
        fmt::format("macro '{}' takes not more than {} argument(s)", macro.name, count));
  }
  return absl::OkStatus();
}

Evaluator::Result Evaluator::CallMacro(const MacroData& macro, Arguments arguments) {
  const MacroBody& body = *macro.body;
  OCTAVO_RETURN_IF_ERROR(budget_.Make(static_cast<size_t>(body.slots) * sizeof(Value)));
  const Activation activation(this, macro.frame, body.slots);
  OCTAVO_RETURN_IF_ERROR(BindParameters(body, std::move(arguments)));
  EnterScope(body.start);
  const size_t required = body.parameters.size() - body.defaults.size();
  for (size_t i = 0; i < body.parameters.size(); ++i) {
    Value& slot = SlotOf(body.parameters[i].place);
    if (!slot.IsMissing()) continue;
    if (i < required) {
      slot = Value::UndefinedValue(
          fmt::format("parameter '{}' was not provided", body.parameters[i].name));
    } else {
      OCTAVO_ASSIGN_OR_RETURN(slot, Evaluate(*body.defaults[i - required]));
    }
  }
  OCTAVO_ASSIGN_OR_RETURN(std::string text, Capture(body.body));
  return MakeText(std::move(text), budget_);
}

Evaluator::Result Evaluator::CallLoop(LoopState* loop, const Arguments& arguments) {
  const auto& run = *static_cast<const LoopRun*>(loop);
  if (!loop->may_recurse()) {
    return RenderError("the loop must have the 'recursive' marker to be called recursively");
  }
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    return RenderError("loop() takes one argument");
  }
  const Activation activation(this, run.frame, run.loop->slots);
  std::string text;
  std::string* const out = std::exchange(out_, &text);
  const absl::Status status = RunLoop(*run.loop, arguments.positional[0], loop->depth0() + 1);
  out_ = out;
  OCTAVO_RETURN_IF_ERROR(status);
  return MakeText(std::move(text), budget_);
}

const MacroData* Evaluator::MakeMacro(const MacroBody& body) {
  frame_->captured = true;
  macros_.push_back({.body = &body, .frame = frame_});
  return &macros_.back();
}

}  // namespace octavo::jinja
