from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from style_maskrcnn.mask_head import MASK_SIZE, MaskHead, mask_loss, mask_targets  # noqa: E402


def test_each_instance_gets_the_channel_of_its_class() -> None:
    torch.manual_seed(0)
    head = MaskHead(4, 4, 1, channel_of_class=(0, 1, 0)).eval()
    torch.nn.init.zeros_(head.logits.weight)
    head.logits.bias.data = torch.tensor([-3.0, 5.0])
    masks = head(torch.randn(3, 4, 14, 14), torch.tensor([0, 1, 2]))
    assert masks.shape == (3, MASK_SIZE, MASK_SIZE)
    assert masks[:, 0, 0].tolist() == [-3.0, 5.0, -3.0]


def test_no_instance_no_mask() -> None:
    head = MaskHead(4, 4, 1, (0,))
    assert head(torch.zeros(0, 4, 14, 14), torch.zeros(0, dtype=torch.int64)).shape == (0, 28, 28)


def test_target_is_the_crop_of_the_right_mask() -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[1, 10:38, 20:34] = 1  # left half of the box below
    wanted = mask_targets(masks, torch.tensor([[20.0, 10.0, 48.0, 38.0]]), torch.tensor([1]))
    expected = torch.zeros(1, MASK_SIZE, MASK_SIZE)
    expected[0, :, :14] = 1
    assert torch.equal(wanted, expected)
    assert mask_targets(masks, torch.tensor([[20.0, 10, 48, 38]]), torch.tensor([0])).sum() == 0


def test_target_of_another_size() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, :, :32] = 1
    wanted = mask_targets(masks, torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([0]), size=56)
    assert wanted[0].mean(dim=0).tolist() == [1.0] * 28 + [0.0] * 28


def test_target_beyond_the_mask_is_outside() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 0:28, 0:28] = 1
    # The box reaches as far again to the right of the mask: half of each row is inside.
    wanted = mask_targets(masks, torch.tensor([[0.0, 0.0, 56.0, 28.0]]), torch.tensor([0]))
    assert wanted[0].mean(dim=0).tolist() == [1.0] * 14 + [0.0] * 14


def test_loss_by_hand_and_without_a_positive() -> None:
    assert mask_loss(torch.zeros(2, 28, 28), torch.ones(2, 28, 28)).item() == pytest.approx(
        0.6931, rel=1e-3
    )
    logits = torch.zeros(0, 28, 28, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, 28, 28))
    loss.backward()
    assert loss.item() == 0
