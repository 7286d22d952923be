"""What errors of a matrix cost the loss, measured while a model runs over some text.

An error e of the weights of row r adds about rows_R[r] * (e @ columns_CC @ e) / 2 nats a token: a
second-order expansion, whose Hessian is the Fisher matrix in the form of a Kronecker product. For a
matrix that maps x to y, with gradients g of y, columns_CC is the mean of x xᵀ where each x weighs
as its |g|², and rows_R[r] is the mean of g[r]²: so what all rows cost together is exact. Of a
lookup table, columns_CC is the mean of g gᵀ over its uses, and rows_R[r] says how often row r is
looked up.

    text of 4 tokens: 7 7 7 2    rows_R of the table: row 7 has 3 times the weight of row 2

Source: Martens and Grosse 2015, with the factor of the rows taken as a diagonal.

Dimensions in names: R rows and C columns of a matrix, N uses in one call.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# A row that the text never looks up counts as if it was looked up so often (Laplace's smoothing).
UNSEEN_USES = 0.5
# How far the gradients of the rows of a matrix are drawn to their mean. The smoke recipe after 20
# tokens a parameter loses 26.7 mnat at 3 bits with 1, 18.9 with 0.3, 21.4 with 0.2. With 0 rows of
# few gradients get steps that are too coarse for other text: 13.0 instead of 3.6 at 4 bits.
ROW_SHRINKAGE = 0.3


@dataclass(frozen=True)
class Hessian:
    """An error e of row r costs rows_R[r] * (e @ columns_CC @ e) / 2; the mean of rows_R is 1."""

    columns_CC: Tensor
    rows_R: Tensor

    @classmethod
    def of(cls, hessian: "Hessian | Tensor", rows: int) -> "Hessian":
        """A matrix of C x C stands for a Hessian to which all rows are alike."""
        if isinstance(hessian, Hessian):
            return hessian
        return cls(hessian, torch.ones(rows, device=hessian.device))

    def mean_diagonal(self) -> float:
        """The cost of an error of 1 in one weight, twice, on average over all weights."""
        return float(self.columns_CC.diagonal().mean())


class Use:
    """Sums over the uses of one part of a parameter, which begins at first_row and first_column.

    A use by F.linear has inputs x and gradients g of its outputs; one by F.embedding has tokens,
    and gradients g of the rows that they looked up.
    """

    def __init__(self, first_row: int, first_column: int, part_RC: Tensor):
        rows, columns = part_RC.shape
        self.rows = slice(first_row, first_row + rows)
        self.columns = slice(first_column, first_column + columns)
        self.inputs_CC = part_RC.new_zeros(columns, columns, dtype=torch.float32)
        self.output_gradients_R = part_RC.new_zeros(rows, dtype=torch.float32)
        self.row_gradients_CC = torch.zeros_like(self.inputs_CC)
        self.looked_up_R = torch.zeros_like(self.output_gradients_R)

    def add_linear(self, x: Tensor, y: Tensor) -> None:
        """Add x and the gradients of y when a loss is differentiated."""
        inputs = x.detach()

        def add_gradients(g: Tensor) -> None:
            # As sums over all uses: memory does not grow with the text.
            power_NR = g.flatten(0, -2).float().square()
            self.output_gradients_R += power_NR.sum(dim=0)
            x_NC = inputs.flatten(0, -2).float()
            self.inputs_CC += (x_NC * power_NR.sum(dim=1, keepdim=True)).T @ x_NC

        y.register_hook(add_gradients)

    def add_lookup(self, tokens: Tensor, y: Tensor) -> None:
        """Add the tokens now, and the gradients of y when a loss is differentiated."""
        self.looked_up_R += torch.bincount(tokens.flatten(), minlength=len(self.looked_up_R))

        def add_gradients(g: Tensor) -> None:
            g_NC = g.flatten(0, -2).float()
            self.row_gradients_CC += g_NC.T @ g_NC

        y.register_hook(add_gradients)

    def products(self, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """Pairs of columns_CC and rows_R, whose products add up to the cost of errors a token."""
        pairs = []
        if self.output_gradients_R.any():
            # A row whose gradients were small on this text may matter on another.
            power_R = self.output_gradients_R
            mean = power_R.mean()
            shrunk_R = mean + (1 - ROW_SHRINKAGE) * (power_R - mean)
            pairs.append((self.inputs_CC / power_R.sum(), shrunk_R / tokens))
        if self.looked_up_R.any():
            # By counts alone: with each row's own gradients beside them (weighing as much as 16
            # uses at the mean) a table model lost 18.8 mnat at 2.5 bits instead of 14.4.
            uses_R = self.looked_up_R + UNSEEN_USES
            pairs.append((self.row_gradients_CC / tokens, uses_R / uses_R.sum()))
        return pairs


class Curvature(TorchFunctionMode):
    """Within it, each use of a named parameter by F.linear or F.embedding is added up.

    Not x @ W: YatNMN's kernel, the one matrix used so, stands in a distance too. By the squares of
    x and the gradients of the products errors of it added 40 to 110 times what was foreseen.

        with Curvature(model.named_parameters()) as curvature:
            model.loss(tokens).backward()  # the sum over tokens
        hessians = curvature.hessians(tokens.numel())

    Uses add up, so a tied or shared matrix has its due. A part of a parameter, such as those rows
    of a padded table that are tokens, counts for its own rows and columns, and so does a copy of it
    in lower precision.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]):
        super().__init__()
        self.matrices = {name: p for name, p in parameters if p.ndim == 2 and p.numel()}
        # What lies at an address in memory: a parameter, or the newest copy of a part of one.
        self.stored = {
            p.untyped_storage().data_ptr(): Stored(name, 0, 0, p)
            for name, p in self.matrices.items()
        }
        self.copies: dict[tuple, Tensor] = {}
        self.uses: dict[tuple, Use] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function not in (Tensor.to, F.linear, F.embedding):
            return out
        # What is done with tensors in here must not come back here.
        with torch._C.DisableTorchFunction():
            place = self.place(args[0] if function is Tensor.to else args[1])
            if place is None:
                return out
            if function is Tensor.to:
                self.note_copy(place, args[0], out)
                return out
            use = self.uses.setdefault((place, *args[1].shape), Use(*place[1:], args[1]))
            if function is F.linear:
                use.add_linear(args[0], out)
            else:
                use.add_lookup(args[0], out)
        return out

    def place(self, part: Tensor) -> tuple[str, int, int] | None:
        """Name, first row and first column of a part of a parameter; None for any other tensor."""
        stored = self.stored.get(part.untyped_storage().data_ptr())
        # A view with other strides, as a transpose, has no rows and columns of the parameter.
        if stored is None or part.ndim != 2 or part.stride() != stored.tensor.stride():
            return None
        offset = part.storage_offset() - stored.tensor.storage_offset()
        row, column = divmod(offset, stored.tensor.stride(0))
        return stored.name, stored.first_row + row, stored.first_column + column

    def note_copy(self, place: tuple[str, int, int], part: Tensor, copy: Tensor) -> None:
        """Remember a copy of a part, and forget the one before it, whose memory may be reused."""
        if copy is part:
            return
        key = place, *part.shape, copy.dtype
        if key in self.copies:
            self.stored.pop(self.copies[key].untyped_storage().data_ptr(), None)
        self.copies[key] = copy
        self.stored[copy.untyped_storage().data_ptr()] = Stored(*place, copy)

    def hessians(self, tokens: int) -> dict[str, Hessian]:
        """The Hessian of every matrix that was used, for a loss that was the sum over tokens.

        Several uses need not add up to one product of rows and columns. The one that is given has
        the mean of the columns over all rows, and each row's own share of the trace.
        """
        terms_of: dict[str, list] = {}
        for ((name, *_), *_), use in self.uses.items():
            terms_of.setdefault(name, []).extend((use, *pair) for pair in use.products(tokens))
        return {
            name: summed(terms, *self.matrices[name].shape)
            for name, terms in terms_of.items()
            if terms
        }


class Stored(NamedTuple):
    """A tensor that holds a part of a parameter, from this row and column on."""

    name: str
    first_row: int
    first_column: int
    tensor: Tensor


def summed(terms: list[tuple[Use, Tensor, Tensor]], rows: int, columns: int) -> Hessian:
    """One Hessian for all uses of a matrix, each with its columns_CC and rows_R."""
    device = terms[0][1].device
    columns_CC = torch.zeros(columns, columns, device=device)
    trace_R = torch.zeros(rows, device=device)
    for use, part_CC, part_R in terms:
        columns_CC[use.columns, use.columns] += part_CC * (part_R.sum() / rows)
        trace_R[use.rows] += part_R * part_CC.trace()
    if not trace_R.any():
        return Hessian(columns_CC, torch.ones_like(trace_R))
    return Hessian(columns_CC, trace_R / trace_R.mean())


def flat_hessians(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hessians for want of better ones: in each matrix equal relative errors cost the same."""
    hessians = {}
    for name, weight in state_dict.items():
        if weight.ndim == 2 and min(weight.shape) >= 8:  # fewer rows are gains, not a matrix
            power = float(weight.detach().double().square().sum())  # alike for any threads
            identity_CC = torch.eye(weight.shape[1], dtype=torch.float32)
            hessians[name] = identity_CC * (1 / power if power > 1e-30 else 1.0)
    return hessians
