#include "graph/plan.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/error.h"
#include "graph/arena.h"
#include "graph/passes/passes.h"
#include "graph/passes/uses.h"
#include "kernels/conv2d/conv2d.h"

namespace sdcore {
namespace {

// Where a value lives: in a storage of its own, or inside that of another value.
struct Place {
  ValueId root = kAbsent;
  int64_t element = 0;  // of the root at which this value begins
};

class Planner {
 public:
  Planner(Plan& plan, DType dtype, Isa isa, gpu::Device* gpu)
      : plan_(plan),
        uses_(plan.graph),
        dtype_(dtype),
        places_(plan.graph.values.size()),
        kernels_{pool_, isa, gpu} {}

  void run() {
    make_views();
    write_in_place();
    assign_offsets();
  }

 private:
  Graph& graph() { return plan_.graph; }
  const TensorType& type(ValueId id) const { return plan_.types[static_cast<size_t>(id)]; }
  Place& place(ValueId id) { return places_[static_cast<size_t>(id)]; }
  View& view(ValueId id) { return plan_.views[static_cast<size_t>(id)]; }

  // A concat's inputs are written side by side where they are made; copy_into_concat saw to it that
  // they can be.
  void place_concats() {
    for (const Node& node : graph().nodes) {
      if (!node.op->is_concat) continue;
      for (const ValueId input : node.inputs) {
        place(behind_views(graph(), uses_, input)).root = node.output;
      }
    }
  }

  // Where in it they begin, once its strides are known; theirs follow.
  void lay_out_concat(const Node& node) {
    const View& whole = view(node.output);
    int64_t element = 0;
    for (const ValueId input : node.inputs) {
      const ValueId part = behind_views(graph(), uses_, input);
      const Shape& shape = type(input).shape;
      place(part).element = element;
      element += node.op == &op_concat_tokens ? shape[1] * whole.stride_w : shape.back();
      stride_like(view(part), whole);
    }
  }

  DType stored_dtype(ValueId id) const {
    const Value& value = plan_.graph.value(id);
    const DType logical = type(id).dtype;
    if (logical == DType::i32) return DType::i32;
    if (value.kind == Value::Kind::weight) return DType::f32;
    // Results are handed out as float32.
    return is_exact(id) || is_plain_output(id) ? DType::f32 : dtype_;
  }

  // Whether every op that reads an input of the graph wants all its digits.
  bool is_exact(ValueId id) const {
    const auto& readers = uses_.readers_of(id);
    return uses_.producer_of(id) < 0 &&
           std::all_of(
               readers.begin(), readers.end(),
               [&](int at) {
                 const Node& node = plan_.graph.nodes[static_cast<size_t>(at)];
                 const auto place = std::find(node.inputs.begin(), node.inputs.end(), id);
                 const auto input = static_cast<size_t>(place - node.inputs.begin());
                 return input < node.op->inputs.size() && node.op->inputs[input].exact;
               });
  }

  bool is_plain_output(ValueId id) const {
    if (!uses_.is_output[static_cast<size_t>(id)] || !uses_.readers_of(id).empty()) return false;
    const int producer = uses_.producer_of(id);
    if (producer < 0) return false;
    const Op& op = *plan_.graph.nodes[static_cast<size_t>(producer)].op;
    return !op.is_view && !op.is_concat;
  }

  // A border is worth having where every reader is a kernel that can skip it and one of them wants
  // it.
  int halo_of(const Node& node) {
    if (!node.op->writes_halo || place(node.output).root != kAbsent) return 0;
    if (type(node.output).shape.size() != 4) return 0;
    int halo = 0;
    for (const int index : uses_.readers_of(node.output)) {
      const Node& reader = graph().nodes[static_cast<size_t>(index)];
      if (reader.op->is_view || reader.op->is_concat) return 0;
      if (reader.op->wants_halo && reader.inputs[0] == node.output &&
          reader.op->wants_halo(lowering(reader))) {
        const auto padding = reader.attrs.find("padding");
        if (padding == reader.attrs.end()) continue;
        for (const int64_t p : std::get<std::vector<int64_t>>(padding->second)) {
          halo = std::max(halo, static_cast<int>(p));
        }
      }
    }
    return halo;
  }

  // From one pixel to the next where tiles of them are read: at an even number of cache lines, half
  // of the first-level cache or less would hold all of them.
  static int64_t spaced(int64_t channels, int64_t size) {
    constexpr int64_t line = 64;
    return channels * size % (2 * line) == 0 ? channels + line / size : channels;
  }

  // Whether a linear layer on the CPU reads it, perhaps under other sizes.
  bool feeds_product(ValueId id) const {
    const auto& readers = uses_.readers_of(id);
    return !kernels_.device && std::ranges::any_of(readers, [&](int at) {
      const Node& reader = plan_.graph.nodes[static_cast<size_t>(at)];
      if (reader.op->is_view) return feeds_product(reader.output);
      return reader.op == &op_linear && reader.inputs[0] == id;
    });
  }

  void make_views() {
    place_concats();
    plan_.views.resize(graph().values.size());
    for (size_t i = 0; i < plan_.views.size(); ++i) {
      const auto id = static_cast<ValueId>(i);
      if (plan_.types[i].shape.empty()) continue;  // a value that a pass removed
      View v = view_of(type(id));
      v.dtype = stored_dtype(id);
      plan_.views[i] = dense_view(nullptr, v.dtype, v.n, v.h, v.w, v.c);
    }
    for (const Node& node : graph().nodes) {
      View& v = view(node.output);
      v.halo = halo_of(node);
      if (v.halo || feeds_product(node.output)) v.stride_w = spaced(v.c, dtype_size(v.dtype));
      v.stride_h = (v.w + 2 * v.halo) * v.stride_w;
      v.stride_n = (v.h + 2 * v.halo) * v.stride_h;
    }
    for (const Node& node : graph().nodes) {
      if (node.op->is_concat) lay_out_concat(node);
    }
    for (const Node& node : graph().nodes) {
      if (node.op->is_view) make_view_of(node);
    }
  }

  void make_view_of(const Node& node) {
    const View& source = view(node.inputs[0]);
    View& v = view(node.output);
    v.dtype = source.dtype;
    stride_like(v, source);
    const Place& of = place(node.inputs[0]);
    place(node.output) = of.root == kAbsent ? Place{node.inputs[0], 0} : of;
    if (node.op->first_pixel) {
      place(node.output).element += node.op->first_pixel(node, source, v) * source.stride_w;
    }
  }

  // Pixels lie one after another as in `whole`, in images as far apart as there.
  static void stride_like(View& v, const View& whole) {
    v.stride_w = whole.stride_w;
    v.stride_h = v.w * v.stride_w;
    v.stride_n = whole.stride_n;
  }

  ValueId root_of(ValueId id) { return place(id).root == kAbsent ? id : place(id).root; }

  // Where a node is the last to read its first input, and may, it writes over it.
  void write_in_place() {
    const int steps = static_cast<int>(graph().nodes.size());
    std::vector<int> last(graph().values.size(), -1);  // node that reads a root last
    const auto last_of = [&](ValueId id) -> int& { return last[static_cast<size_t>(root_of(id))]; };
    for (int step = 0; step < steps; ++step) {
      for_each_input(graph().nodes[static_cast<size_t>(step)],
                     [&](ValueId id) { last_of(id) = step; });
    }
    for (const auto& [name, id] : graph().outputs) last_of(id) = steps;
    for (int step = 0; step < steps; ++step) {
      const Node& node = graph().nodes[static_cast<size_t>(step)];
      if (!node.op->in_place || !may_overwrite(node) || last_of(node.inputs[0]) != step) continue;
      const ValueId root = root_of(node.inputs[0]);
      last[static_cast<size_t>(root)] = last_of(node.output);
      for (Place& other : places_) {
        if (other.root == node.output) other.root = root;
      }
      place(node.output) = {root, 0};
    }
  }

  bool is_steady(ValueId id) const { return plan_.graph.value(id).steady; }

  // Whether the output lies exactly as the first input does, in memory that is this plan's own.
  bool may_overwrite(const Node& node) {
    const ValueId in = node.inputs[0], root = root_of(in);
    if (place(node.output).root != kAbsent || place(in).element != 0) return false;
    if (is_steady(root) != is_steady(node.output)) return false;  // the next run reads it again
    if (uses_.producer_of(root) < 0 || node.fused.residual == in) return false;
    const View &from = view(in), &to = view(node.output), &whole = view(root);
    return from.dtype == to.dtype && from.n == to.n && from.h == to.h && from.w == to.w &&
           from.c == to.c && from.stride_n == to.stride_n && from.stride_h == to.stride_h &&
           from.stride_w == to.stride_w && whole.c == from.c && whole.halo == 0 && to.halo == 0;
  }

  void assign_offsets() {
    std::vector<Interval> intervals = lifetimes();
    std::vector<int64_t> kept = take_kept(intervals);
    append_workspaces(intervals);
    const ArenaLayout layout = lay_out(intervals);
    plan_.arena_bytes = layout.bytes;
    plan_.workspaces.assign(layout.offsets.begin() + static_cast<std::ptrdiff_t>(places_.size()),
                            layout.offsets.end());
    plan_.offsets.assign(places_.size(), -1);
    plan_.kept.assign(places_.size(), false);
    for (size_t i = 0; i < places_.size(); ++i) {
      const auto id = static_cast<ValueId>(i);
      const auto root = static_cast<size_t>(root_of(id));
      plan_.kept[i] = kept[root] >= 0;
      if (!plan_.kept[i] && intervals[root].bytes == 0) continue;
      const View& v = plan_.views[i];
      const int64_t border = v.halo * (v.stride_h + v.stride_w);
      const int64_t start = plan_.kept[i] ? kept[root] : layout.offsets[root];
      plan_.offsets[i] = start + (place(id).element + border) * dtype_size(v.dtype);
    }
  }

  // Of roots, by value; of all others none. Inputs are there before the first node that may read
  // them: steady ones before all, others after the steady nodes.
  std::vector<Interval> lifetimes() {
    const int steps = static_cast<int>(graph().nodes.size());
    std::vector<Interval> intervals(graph().values.size());
    for (Interval& interval : intervals) interval = {steps, -1, 0};
    const auto touch = [&](ValueId id, int step) {
      if (graph().value(id).kind == Value::Kind::weight) return;
      Interval& interval = intervals[static_cast<size_t>(root_of(id))];
      interval.first = std::min(interval.first, step);
      interval.last = std::max(interval.last, step);
    };
    for (int step = 0; step < steps; ++step) {
      const Node& node = graph().nodes[static_cast<size_t>(step)];
      for_each_input(node, [&](ValueId id) { touch(id, step); });
      touch(node.output, step);
    }
    for (size_t i = 0; i < graph().values.size(); ++i) {
      const auto id = static_cast<ValueId>(i);
      if (graph().values[i].kind != Value::Kind::input) continue;
      touch(id, is_steady(id) ? -1 : static_cast<int>(plan_.steady_nodes) - 1);
    }
    for (const auto& [name, id] : graph().outputs) touch(id, steps);
    for (size_t i = 0; i < intervals.size(); ++i) {
      const View& v = plan_.views[i];
      if (intervals[i].last >= intervals[i].first) {
        intervals[i].bytes = v.n * v.stride_n * dtype_size(v.dtype);
      }
    }
    return intervals;
  }

  // Takes steady values that are read after the steady nodes out of the arena: each has its place
  // in what is kept from then on. Offsets there, or -1.
  std::vector<int64_t> take_kept(std::vector<Interval>& intervals) {
    std::vector<int64_t> offsets(intervals.size(), -1);
    for (size_t i = 0; i < intervals.size(); ++i) {
      Interval& interval = intervals[i];
      if (!is_steady(static_cast<ValueId>(i)) || interval.bytes == 0 ||
          interval.last < static_cast<int>(plan_.steady_nodes)) {
        continue;
      }
      offsets[i] = plan_.kept_bytes;
      plan_.kept_bytes += static_cast<int64_t>(align_up(static_cast<size_t>(interval.bytes)));
      interval.bytes = 0;
    }
    return offsets;
  }

  void append_workspaces(std::vector<Interval>& intervals) {
    for (int step = 0; step < static_cast<int>(graph().nodes.size()); ++step) {
      const Node& node = graph().nodes[static_cast<size_t>(step)];
      const size_t bytes = node.op->workspace ? node.op->workspace(lowering(node)) : 0;
      intervals.push_back({step, step, static_cast<int64_t>(bytes)});
    }
  }

  // What an op may ask before there are weights and memory.
  Lowering lowering(const Node& node) {
    return {plan_.graph, node, plan_.views, dtype_, 0, nullptr, kernels_};
  }

  Plan& plan_;
  const Uses uses_;
  const DType dtype_;
  std::vector<Place> places_;
  // A pool of one thread: sizes of workspaces depend on the level alone.
  ThreadPool pool_{1};
  const KernelContext kernels_;
};

}  // namespace

DType activation_dtype(std::string_view name) {
  const auto dtype = find_dtype(name);
  require(dtype && *dtype != DType::i32, ErrorKind::invalid_argument,
          "[dtype] must be auto, f32, bf16 or f16, got '", name, "'");
  return *dtype;
}

void require_dtype(DType dtype, const gpu::Device* gpu) {
  require(gpu || dtype != DType::f16, ErrorKind::invalid_argument,
          "[dtype] f16 is for GPUs: on the CPU use auto, bf16 or f32");
}

Plan make_plan(const Graph& graph, const InputShapes& inputs, DType dtype, Isa isa,
               gpu::Device* gpu, const InputNames& steady) {
  require_dtype(dtype, gpu);
  Plan plan;
  plan.graph = graph;
  plan.types = infer_types(graph, inputs);
  remove_dead(plan.graph);
  fuse_geglu(plan.graph, gated_multiple(dtype, isa, gpu != nullptr));
  check_graph(plan.graph);
  if (!gpu && folds_upsample(dtype, isa)) {
    fold_upsample(plan.graph, plan.types);
    check_graph(plan.graph);
  }
  fuse_activation(plan.graph);
  check_graph(plan.graph);
  fuse_add(plan.graph, plan.types);
  check_graph(plan.graph);
  if (!steady.empty()) {
    steady_first(plan.graph, steady);
    check_graph(plan.graph);
  }
  copy_into_concat(plan.graph, plan.types);
  check_graph(plan.graph);
  plan.steady_nodes = static_cast<size_t>(std::ranges::count_if(
      plan.graph.nodes, [&](const Node& node) { return plan.graph.value(node.output).steady; }));
  Planner(plan, dtype, isa, gpu).run();
  return plan;
}

}  // namespace sdcore
